"""What airfleet replaces of Airflow is, in the locked version, what it was replaced for."""

import base64
from collections.abc import Callable
from pathlib import Path

from testinfra.host import Host

LIST = Path(__file__).parents[3] / "ops_airflow/upstream.py"

Machine = Callable[[str], Host]


def test_replaced_parts_are_those_they_were_written_for(machine: Machine) -> None:
    text = base64.b64encode(LIST.read_bytes()).decode()
    # The checkout's list, in the environment that is installed.
    asked = "echo %s | base64 -d | AIRFLOW_HOME=$(mktemp -d) /opt/airflow/current/bin/python -"
    done = machine("sched1").run(asked, text)
    assert done.rc == 0, done.stdout + done.stderr
