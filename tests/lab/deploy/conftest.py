"""A git repository of DAGs to deploy from; what served before a test serves again after it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.deploy.deployer import ROOT, Done, Repository, finish, start


@pytest.fixture
def run_ops() -> Callable[..., Done]:
    return lambda *words: finish(start(*words))


@pytest.fixture
def current(run_ops: Callable[..., Done]) -> Callable[[], str]:
    """Return the release that serves now."""
    return lambda: str(run_ops("releases", "list", "--format", "json").json()["current"])


@pytest.fixture
def repository(tmp_path: Path, run_ops: Callable[..., Done], current: Callable[[], str]) -> Iterator[Repository]:
    before = current()
    yield Repository(tmp_path)
    left = run_ops("releases", "list", "--format", "json").json()
    if left["current"] != before:
        # A test of pruning may have removed it.
        kept = before in {release["id"] for release in left["releases"]}
        words = ("rollback", before) if kept else ("deploy", str(ROOT / "dags"), "--allow-dirty")
        back = run_ops(*words, "--yes")
        assert back.code == 0, back.stderr
