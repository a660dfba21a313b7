"""Celery's settings for the fleet: Airflow's own, and what a broker that is away, frozen or hostile asks for.

Named by `[celery] celery_config_options` in airflow.cfg. Every setting has its reason beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# A publish to a frozen broker waits for the confirm, for the channel's close and for the connection's: three reads,
# which together stay below [celery] operation_timeout (5 s). Without a limit the last two wait for as long as the
# broker is frozen, and the scheduler's loop with them.
IO_TIMEOUT_SECONDS = 1.0
_STOCK_BACKEND = "db+"
_OWN_BACKEND = "ops_airflow.celery.results:Backend+"


def for_the_fleet(base: Mapping[str, Any], queues: Iterable[str]) -> dict[str, Any]:
    """Return the settings of `base` for a fleet whose pools have the named queues."""
    return {**base, **_results(base), **_queues(queues), **_connections(base), **_worker(base)}


def _results(base: Mapping[str, Any]) -> dict[str, Any]:
    return {
        # Stock, the scheduler unpickles what workers wrote: whoever runs a task could run code there.
        "result_backend": base.get("result_backend", "").replace(_STOCK_BACKEND, _OWN_BACKEND, 1),
        # A worker first notes that it has begun a task. While the database is away it waits with that; by default it
        # gives up after three tries at once, and the task it has taken from the queue is queued for ever.
        "result_backend_always_retry": True,
    }


def _queues(names: Iterable[str]) -> dict[str, Any]:
    return {
        # The broker has them from its definitions, and nobody else may declare one. Declaring at each publish also asks
        # the broker's metadata store, which in a cluster hangs for as long as a lost node counts as living. The type is
        # still told: with another one Celery would ask for a global prefetch, which quorum queues refuse.
        "task_queues": {
            name: {
                "exchange": "",
                "routing_key": name,
                "queue_arguments": {"x-queue-type": "quorum"},
                "no_declare": True,
            }
            for name in names
        },
        "task_default_exchange": "",
        # A message to a queue that is no pool's would be confirmed and dropped; so it fails its task, saying why.
        "task_create_missing_queues": False,
    }


def _connections(base: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "broker_transport_options": {
            **base.get("broker_transport_options", {}),
            # A task counts as sent when the broker says that it has it, not when its bytes have left for the network.
            "confirm_publish": True,
            "read_timeout": IO_TIMEOUT_SECONDS,
            "write_timeout": IO_TIMEOUT_SECONDS,
            # Seconds for which a publish that lost its connection goes on reconnecting: beyond operation_timeout, which
            # is what ends it. Airflow repeats a publish that was too slow, and fails the task of one that was refused.
            "connect_retries_timeout": 3600,
        },
        "task_publish_retry_policy": {
            "max_retries": None,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.5,
        },
        # Stock is 4 s, most of operation_timeout: one broker of several that is frozen would use it up.
        "broker_connection_timeout": IO_TIMEOUT_SECONDS,
        # A worker whose broker froze notices in 20 s, where stock it takes four minutes.
        "broker_heartbeat": 10,
    }


def _worker(base: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "worker_consumer": "ops_airflow.celery.consumer:Consumer",
        "worker_pool": "ops_airflow.celery.pool:TaskPool",
        # That consumer reckons the prefetch after a lost connection itself.
        "worker_enable_prefetch_count_reduction": False,
        # Its queue would be a classic one, lost with its node, and every task on a host could ask all workers to stop.
        "worker_enable_remote_control": False,
        # A lost connection costs no task: what runs is finished, and Airflow refuses to start it a second time.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "imports": (*base.get("imports", ()), "ops_airflow.celery.task_exit"),
    }


def __getattr__(name: str) -> dict[str, Any]:
    """Build CELERY_CONFIG when Airflow asks for it, so that this module imports where Airflow is not installed."""
    if name != "CELERY_CONFIG":
        raise AttributeError(name)
    from airflow.configuration import conf  # noqa: PLC0415
    from airflow.providers.celery.executors.default_celery import DEFAULT_CELERY_CONFIG  # noqa: PLC0415

    return for_the_fleet(DEFAULT_CELERY_CONFIG, conf.getjson("airfleet", "queues"))
