"""A converge restarts the schedulers one after the other, and changes their mode, while tasks go on."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.chaos.lab import ADDRESS, ROOT, SCHEDULERS, Database, health, settled, shell, until
from tests.chaos.load import Load
from tests.chaos.recovery import longest_pause, probing


def converge(**variables: Any) -> None:
    """Run site.yml for the schedulers, and for the database that they share, with some settings changed."""
    playbook = str(Path(sys.executable).with_name("ansible-playbook"))
    words = [playbook, "-i", "inventories/lab", "site.yml", "--tags", "postgres,airflow_scheduler"]
    settings = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    command = [*words, "-e", json.dumps(variables)]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


@pytest.fixture
def _back() -> Iterator[None]:
    yield
    converge()


@pytest.mark.usefixtures("_back")
def test_converge_does_the_standby_first_and_hands_over_once(database: Database, load: Load) -> None:
    active, standby = settled()
    epoch = health(active)["epoch"]
    with probing(load):
        began = time.time()
        converge(airflow_scheduler_stall_seconds=31)
    assert settled() == (standby, active)
    assert health(standby)["epoch"] == epoch + 1
    for host in SCHEDULERS:
        assert float(json.loads(shell(host, "cat /etc/airflow/keeper.json"))["timing"]["stall"]) == 31
    assert longest_pause(database, began) < 10


@pytest.mark.usefixtures("_back")
def test_change_of_mode_and_back_loses_no_time(database: Database, load: Load) -> None:
    settled()
    with probing(load):
        began = time.time()
        converge(airflow_scheduler_mode="active_active")
        for host in SCHEDULERS:
            until(lambda host=host: requests.get(f"http://{ADDRESS[host]}:8974/health", timeout=2).ok, 30, host)
        converge()
        settled()
        load.shared.append((began, time.time()))
    assert longest_pause(database, began) < 20
