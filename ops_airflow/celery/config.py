"""Celery's settings for the fleet: Airflow's own, with every queue a quorum queue and every message confirmed.

Named by `[celery] celery_config_options` in airflow.cfg. Celery 5.6 learns that a queue is a quorum queue only from
its own declaration; with the broker's default type alone it would ask for a global prefetch, which such queues refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def for_the_fleet(base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `base` with quorum queues for every queue, and with nothing sent or noted unanswered."""
    return {
        **base,
        "task_default_queue_type": "quorum",
        "task_create_missing_queue_type": "quorum",
        # Celery declares 28 delay queues beside quorum queues; Airflow never delays a message, so keep them cheap.
        "broker_native_delayed_delivery_queue_type": "classic",
        # A task counts as sent when the broker says that it has it, not when its bytes have left for the network.
        "broker_transport_options": {**base.get("broker_transport_options", {}), "confirm_publish": True},
        "imports": (*base.get("imports", ()), "ops_airflow.celery.task_exit"),
        # A worker first notes that it has begun a task. While the database is away it waits with that; by default it
        # gives up after three tries at once, and the task it has taken from the queue is queued for ever.
        "result_backend_always_retry": True,
    }


def __getattr__(name: str) -> dict[str, Any]:
    """Build CELERY_CONFIG when Airflow asks for it, so that this module imports where Airflow is not installed."""
    if name != "CELERY_CONFIG":
        raise AttributeError(name)
    from airflow.providers.celery.executors.default_celery import DEFAULT_CELERY_CONFIG  # noqa: PLC0415

    return for_the_fleet(DEFAULT_CELERY_CONFIG)
