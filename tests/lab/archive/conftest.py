from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ops_agent.archive import engine
from ops_agent.archive.policy import Policy
from ops_agent.archive.store import Directory
from tests.lab.archive.cluster import Cluster, Database

Vacuum = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("archive"))
    yield cluster
    cluster.close()


@pytest.fixture
def database(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A copy of the filled database, of the test's own."""
    name = f"t_{sha256(request.node.name.encode()).hexdigest()[:12]}"
    database = cluster.copy(name)
    yield database
    database.close()
    cluster.drop(name)


@pytest.fixture
def store(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "archives")


@pytest.fixture
def vacuum(database: Database, store: Directory) -> Vacuum:
    """Run a vacuum of all that is older than 90 days and return its result."""

    def run(**changes: Any) -> dict[str, Any]:
        request = engine.Request(policy=Policy(retention=timedelta(days=90)), who="a test")
        return engine.Vacuum(database.dsn, store, replace(request, **changes), lambda _line: None).run()

    return run
