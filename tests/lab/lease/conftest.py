import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.lease.cluster import HOSTS, Cluster
from tests.lab.lease.keepers import Running, until, written

RESET = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename ~ '^(keeper|scheduler)_' OR usename = 'ops';
TRUNCATE public.job, public.task_instance;
DELETE FROM ops.lease_event;
UPDATE ops.keeper SET ready = false, seen_at = NULL;
UPDATE ops.scheduler_lease SET holder = NULL, expires_at = '-infinity', successor = NULL, hand_over_to = NULL,
  released_at = NULL, fenced_at = NULL, sent_through = NULL, suspended = false;
"""


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("lease"))
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(_cluster: Cluster) -> Cluster:
    """The cluster with a free lease and both schedulers let in."""
    _cluster.admin(RESET + "".join(f"SELECT ops.open('scheduler_{host}');" for host in HOSTS))
    return _cluster


@pytest.fixture
def pair(cluster: Cluster, tmp_path: Path) -> Iterator[tuple[Running, Running]]:
    """The active one and the standby."""
    cluster.admin("ALTER TABLE task_instance ADD COLUMN IF NOT EXISTS at timestamptz DEFAULT clock_timestamp()")
    both = [Running(host, 18974 + n, tmp_path / f"{host}.log") for n, host in enumerate(("sched1", "sched2"))]
    try:
        until(lambda: sum(keeper.is_("active") for keeper in both) == 1 and sum(k.health()["ready"] for k in both))
        active, standby = sorted(both, key=lambda keeper: keeper.is_("active"), reverse=True)
        until(lambda: written(cluster, active.host))
        yield active, standby
    finally:
        for keeper in both:
            keeper.process.send_signal(signal.SIGCONT)
            keeper.process.kill()
            keeper.process.wait()
            sys.stderr.write(f"--- {keeper.host}\n{keeper.log.read_text()}")
