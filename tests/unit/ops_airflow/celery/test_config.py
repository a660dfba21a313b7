import pytest

from ops_airflow.celery import config as celery_config


def test_quorum_queues_are_declared_for_every_queue() -> None:
    config = celery_config.for_the_fleet({"task_default_queue": "io", "task_default_queue_type": "classic"})
    assert config["task_default_queue"] == "io"
    assert config["task_default_queue_type"] == "quorum"
    assert config["task_create_missing_queue_type"] == "quorum"


def test_results_wait_for_the_database() -> None:
    assert celery_config.for_the_fleet({})["result_backend_always_retry"] is True


def test_messages_are_confirmed_beside_options_of_airflows_own() -> None:
    config = celery_config.for_the_fleet({"broker_transport_options": {"heartbeat": 5}})
    assert config["broker_transport_options"] == {"heartbeat": 5, "confirm_publish": True}


def test_quorum_queues_leave_airflows_settings_alone() -> None:
    base = {"task_acks_late": True}
    celery_config.for_the_fleet(base)
    assert base == {"task_acks_late": True}


def test_module_has_no_other_dynamic_names() -> None:
    with pytest.raises(AttributeError):
        celery_config.CELERY_CONFIGS  # noqa: B018
