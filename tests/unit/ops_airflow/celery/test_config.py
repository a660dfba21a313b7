from typing import Any

import pytest

from ops_airflow.celery import config as celery_config

STOCK: dict[str, Any] = {
    "result_backend": "db+postgresql+psycopg2://celery:p@10.0.0.1:6432/airflow",
    "broker_transport_options": {"heartbeat": 5},
    "imports": ("of_airflow",),
    "task_default_queue": "io",
    "task_default_exchange": "io",
    "worker_enable_remote_control": True,
}


@pytest.fixture
def config() -> dict[str, Any]:
    return celery_config.for_the_fleet(STOCK, ["cpu", "io"])


def test_queues_are_the_brokers_and_nobody_declares_one(config: dict[str, Any]) -> None:
    assert set(config["task_queues"]) == {"cpu", "io"}
    for name, queue in config["task_queues"].items():
        assert queue["no_declare"] is True
        assert (queue["exchange"], queue["routing_key"]) == ("", name)
        # else Celery asks for a global prefetch, which quorum queues refuse
        assert queue["queue_arguments"] == {"x-queue-type": "quorum"}
    # else Celery puts Airflow's exchange in the place of the default one
    assert config["task_default_exchange"] == ""
    assert config["task_create_missing_queues"] is False


def test_results_are_not_pickles(config: dict[str, Any]) -> None:
    own = "ops_airflow.celery.results:Backend+postgresql+psycopg2://celery:p@10.0.0.1:6432/airflow"
    assert config["result_backend"] == own


def test_results_wait_for_the_database(config: dict[str, Any]) -> None:
    assert config["result_backend_always_retry"] is True


def test_messages_are_confirmed_beside_options_of_airflows_own(config: dict[str, Any]) -> None:
    options = config["broker_transport_options"]
    assert (options["heartbeat"], options["confirm_publish"]) == (5, True)


def test_refused_publish_goes_on_until_airflow_ends_it(config: dict[str, Any]) -> None:
    assert config["task_publish_retry_policy"]["max_retries"] is None
    # kombu gives up reconnecting after broker_connection_timeout otherwise
    assert config["broker_transport_options"]["connect_retries_timeout"] >= 3600


def test_frozen_broker_holds_nobody_up(config: dict[str, Any]) -> None:
    options = config["broker_transport_options"]
    limit = celery_config.IO_TIMEOUT_SECONDS
    assert [options["read_timeout"], options["write_timeout"], config["broker_connection_timeout"]] == [limit] * 3
    assert config["broker_heartbeat"] == 10


def test_lost_connection_costs_no_task_and_no_slot(config: dict[str, Any]) -> None:
    assert config["worker_cancel_long_running_tasks_on_connection_loss"] is False
    assert config["worker_enable_prefetch_count_reduction"] is False
    assert config["worker_consumer"] == "ops_airflow.celery.consumer:Consumer"
    assert config["worker_pool"] == "ops_airflow.celery.pool:TaskPool"


def test_no_task_can_stop_the_workers(config: dict[str, Any]) -> None:
    assert config["worker_enable_remote_control"] is False


def test_workers_import_what_frees_their_slots(config: dict[str, Any]) -> None:
    assert config["imports"] == ("of_airflow", "ops_airflow.celery.task_exit")


def test_airflows_own_settings_are_left_alone() -> None:
    base = {"task_acks_late": True}
    assert celery_config.for_the_fleet(base, [])["task_acks_late"] is True
    assert base == {"task_acks_late": True}


def test_module_has_no_other_dynamic_names() -> None:
    with pytest.raises(AttributeError):
        celery_config.CELERY_CONFIGS  # noqa: B018
