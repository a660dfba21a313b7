from collections.abc import Iterator

import pytest

from tests.lab.lease.cluster import HOSTS, Cluster

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
