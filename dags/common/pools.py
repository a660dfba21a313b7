"""The worker pools of the fleet. A pool's queue has the pool's name."""

POOLS = ("cpu", "memory", "io")
