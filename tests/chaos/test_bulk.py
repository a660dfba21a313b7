"""A scheduler dies in the middle of sending two hundred tasks: what it had marked queued and not sent is sent again."""

from collections.abc import Iterator

import pytest

from tests.chaos.lab import UNIT, Database, scheduler_pid, settled, shell, until
from tests.chaos.load import Load
from tests.chaos.recovery import newest_job

DROP_IN = f"/run/systemd/system/{UNIT}.d/chaos.conf"
# The lab's two cores queue 16 tasks at a time; a production scheduler sends many more in one loop.
WIDE = {
    "AIRFLOW__CORE__PARALLELISM": 256,
    "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": 256,
    "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": 256,
}
QUEUED = "SELECT count(*) FROM task_instance WHERE dag_id = 'chaos_bulk' AND state = 'queued'"
# What one loop marks queued, in one transaction, before it begins to send: at least so many of the two hundred.
BULK = 100
# Four slots and two cores.
DONE_SECONDS = 400


@pytest.fixture
def wide() -> Iterator[None]:
    """Let a loop send two hundred tasks."""
    lines = "".join(f"Environment={name}={value}\\n" for name, value in WIDE.items())
    for host in _standby_first():
        shell(
            host, f"mkdir -p $(dirname {DROP_IN}) && printf '[Service]\\n{lines}' >{DROP_IN} && systemctl daemon-reload"
        )
        _restart(host)
    yield
    for host in _standby_first():
        shell(host, f"rm -f {DROP_IN} && systemctl daemon-reload")
        _restart(host)


def _standby_first() -> tuple[str, str]:
    active, standby = settled()
    return standby, active


def _restart(host: str) -> None:
    shell(host, f"systemctl restart {UNIT}", timeout=120)
    settled()


@pytest.mark.usefixtures("wide")
def test_scheduler_killed_in_the_middle_of_a_bulk_send(database: Database, load: Load) -> None:
    active, standby = settled()
    pid, job = scheduler_pid(active), newest_job(database)
    since = shell(standby, "date +%s")
    load.start("chaos_bulk")
    until(lambda: database.value(QUEUED) >= BULK, 60, "the bulk to be queued", every=0.01)
    shell(active, f"kill -9 {pid}")
    until(lambda: newest_job(database) > job, 20, "the other host's scheduler")
    said = f"journalctl -u {UNIT} --since @{since} --no-pager | grep -o 'sending .* queued tasks again' || true"
    until(lambda: shell(standby, said), 30, "tasks to be sent again")
    left = f"{QUEUED} AND queued_by_job_id <= {job}"
    until(lambda: database.value(left) == 0, 30, "every queued task to have a new owner")
    unfinished = "SELECT count(*) FROM task_instance WHERE dag_id = 'chaos_bulk' AND state IS DISTINCT FROM 'success'"
    until(lambda: database.value(unfinished) == 0, DONE_SECONDS, "all of the bulk to have run", every=2)
