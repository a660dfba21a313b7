import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ops_agent.metadata.shelf.store import Directory
from ops_agent.metadata.take import engine
from ops_agent.metadata.take.plan import Request
from ops_agent.metadata.take.policy import Policy
from tests.lab.vacuum.cluster import Cluster
from tests.lab.vacuum.history import History

Vacuum = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def database(cluster: Cluster, request: pytest.FixtureRequest) -> str:
    return cluster.fresh("t_" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12])


@pytest.fixture
def admin(cluster: Cluster, database: str) -> Iterator[psycopg.Connection[Any]]:
    with cluster.connect(database) as connection:
        yield connection


@pytest.fixture
def history(admin: psycopg.Connection[Any]) -> History:
    return History(admin)


@pytest.fixture
def store(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "archives")


@pytest.fixture
def vacuum(cluster: Cluster, database: str, store: Directory) -> Vacuum:
    """Run a vacuum of what is older than 90 days and return its result."""

    def run(**changes: Any) -> dict[str, Any]:
        request = replace(Request(Policy(timedelta(days=90)), "a test", gentle=False), **changes)
        return engine.Vacuum(cluster.dsn(database), store, request, lambda _: None).run()

    return run
