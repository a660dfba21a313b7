import pytest

from ops_agent import celery_config


def test_quorum_queues_are_declared_for_every_queue() -> None:
    config = celery_config.with_quorum_queues({"task_default_queue": "io", "task_default_queue_type": "classic"})
    assert config["task_default_queue"] == "io"
    assert config["task_default_queue_type"] == "quorum"
    assert config["task_create_missing_queue_type"] == "quorum"


def test_results_wait_for_the_database() -> None:
    assert celery_config.with_quorum_queues({})["result_backend_always_retry"] is True


def test_quorum_queues_leave_airflows_settings_alone() -> None:
    base = {"task_acks_late": True}
    celery_config.with_quorum_queues(base)
    assert base == {"task_acks_late": True}


def test_module_has_no_other_dynamic_names() -> None:
    with pytest.raises(AttributeError):
        celery_config.CELERY_CONFIGS  # noqa: B018
