"""What role airflow_scheduler writes for the lease keeper is what the keeper reads."""

from pathlib import Path
from typing import Any

import pytest

from ops_airflow.scheduler import config
from tests.config import plays

ROLE = {"name": "airflow_scheduler", "tasks_from": "preflight.yml", "public": True}
GOOD = 'kR9"vX\\2mQ7tLw4{zBa'
VARIABLES: dict[str, Any] = {
    "airflow_scheduler_mode": "active_standby",
    "airflow_scheduler_keeper_password": GOOD,
    "airflow_database_host": "10.77.0.51",
    "airflow_database_port": 5432,
    "airflow_database_name": "airflow",
    "airflow_scheduler_stall_seconds": 45,
    "airflow_scheduler_keeper_readers": ["10.77.0.1"],
}


def test_keeper_settings_are_read_as_they_were_meant(tmp_path: Path) -> None:
    written = tmp_path / "keeper.json"
    template = plays.template("roles/airflow_scheduler/templates/keeper.json.j2", written)
    plays.run([plays.play("sched1", VARIABLES, {"ansible.builtin.include_role": ROLE}, template)], tmp_path)
    read = config.load(written)
    login = {"host": "10.77.0.51", "port": 5432, "dbname": "airflow", "user": "keeper_sched1", "password": GOOD}
    assert read.database == login
    assert (read.listen_address, read.listen_port) == ("10.77.0.31", 8976)
    assert read.readers == ("10.77.0.1",)
    assert (read.timing.ttl, read.timing.stall) == (6.0, 45.0)


@pytest.mark.parametrize(
    ("timing", "complaint"), [('{"tll": 3}', "unknown timing tll"), ('{"ttl": 2}', "no time for a second renewal")]
)
def test_keeper_settings_that_cannot_work_are_refused(tmp_path: Path, timing: str, complaint: str) -> None:
    path = tmp_path / "keeper.json"
    path.write_text(f'{{"database": {{}}, "listen_address": "::", "listen_port": 1, "timing": {timing}}}')
    with pytest.raises(ValueError, match=complaint):
        config.load(path)
