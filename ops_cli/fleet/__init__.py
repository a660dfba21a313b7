"""The machines: which there are, how they are reached, and the lock on changing them."""
