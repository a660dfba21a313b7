from typing import Any

import pytest

from ops_cli.dags.hosts import ReleaseHosts
from ops_cli.fleet import inventory
from ops_cli.fleet.session import Sessions


def fleet(**workers: dict[str, Any]) -> inventory.Inventory:
    variables = {name: {"ansible_host": "10.0.0.1", **given} for name, given in workers.items()}
    names = ["sched1", *workers]
    return inventory.parse(
        "test",
        {
            "_meta": {"hostvars": variables},
            "fleet": {"hosts": names},
            "scheduler": {"hosts": ["sched1"]},
            "worker": {"hosts": list(workers)},
        },
    )


@pytest.mark.parametrize(
    ("variables", "queues"),
    [
        ({"airflow_worker_pool": "cpu"}, ["cpu"]),
        ({"airflow_worker_pool": "cpu", "airflow_worker_queues": ["{{ airflow_worker_pool }}", "gpu"]}, ["cpu", "gpu"]),
        ({}, []),
    ],
)
def test_queues_are_those_of_the_workers(variables: dict[str, Any], queues: list[str]) -> None:
    assert ReleaseHosts(fleet(w1=variables, w2=variables), Sessions()).queues() == queues


def test_lab_has_a_queue_for_each_pool(root: Any) -> None:
    assert ReleaseHosts(inventory.load("lab", root), Sessions()).queues() == ["cpu", "io", "memory"]
