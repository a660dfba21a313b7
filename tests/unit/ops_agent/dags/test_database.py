"""What becomes of a flip, and of the wait after it, whatever the database does."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest

from ops_agent.dags.store import Store
from ops_agent.main import run
from ops_release import database
from ops_release.cache import Cache
from tests.unit.ops_agent.dags.conftest import signed, stream, write


class ServerError(Exception):
    """psycopg2.Error."""


class Server:
    """A psycopg2 whose database fails at one step, and answers what the test says."""

    def __init__(self) -> None:
        self.failing = ""
        self.statements: list[str] = []
        self.answers: Callable[[str], list[tuple[Any, ...]]] = lambda _: []
        self.rowcount = 1

    def connect(self, *_: object, **__: object) -> "Server":
        self._step("connect")
        return self

    def cursor(self) -> "Server":
        return self

    def execute(self, statement: str, _values: object = ()) -> None:
        self._step("execute")
        self.statements.append(statement)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.answers(self.statements[-1])

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(iter(self.fetchall()), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._step("commit")

    def close(self) -> None:
        return

    def _step(self, name: str) -> None:
        if name == self.failing:
            raise ServerError(f"{name}: the server closed the connection")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made, module = Server(), ModuleType("psycopg2")
    module.connect, module.Error = made.connect, ServerError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "psycopg2", module)
    monkeypatch.setattr("ops_agent.host.python.require", lambda _module: None)
    return made


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    configuration = tmp_path / "airflow.cfg"
    configuration.write_text("[database]\nsql_alchemy_conn = postgresql+psycopg2://x@y/z\n")

    def release(*words: str) -> Any:
        options = ["--share", str(tmp_path / "share"), "--cache", str(tmp_path / "cache")]
        options += ["--signers", str(tmp_path / "signers")]
        options += ["--configuration", str(configuration), "--publisher", "root", "--service-user", "root"]
        assert run(["release", *options, *words]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return release


@pytest.fixture
def release(store: Store, cache: Cache, tmp_path: Path, key: Path) -> str:
    """Publish a release of two DAGs, and have a copy of it."""
    report = {"dags": [{"dag_id": "a"}, {"dag_id": "b"}]}
    published = store.publish(stream(write(tmp_path / "tree", {"a.py": "1"}), validation=report)).id
    store.sign(published, signed(store.text(published), key))
    cache.copy(store.root, published)
    return published


@pytest.mark.parametrize("failing", ["", "connect", "execute", "commit"])
def test_flip_happens_and_says_whether_the_dag_processors_were_told(
    failing: str, server: Server, ask: Callable[..., Any], release: str
) -> None:
    server.failing = failing
    flipped = ask("flip", release)
    assert (flipped["release"], flipped["refreshed"]) == (release, not failing)
    assert ask("links") == {"current": release, "previous": None, "releases": [{"id": release}]}


def test_database_without_such_a_bundle_is_not_told(server: Server, ask: Callable[..., Any], release: str) -> None:
    server.rowcount = 0
    assert ask("flip", release)["refreshed"] is False


def test_wait_ends_as_soon_as_every_dag_is_served(
    server: Server, ask: Callable[..., Any], release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def answers(statement: str) -> list[tuple[Any, ...]]:
        nonlocal looks
        if "FROM dag_bundle" in statement:
            return [(release,)]
        if statement.startswith("SELECT dag_id FROM dag "):
            looks += 1
            return [("a",)] if looks < 3 else [("a",), ("b",)]
        return []

    server.answers = answers
    monkeypatch.setattr("ops_agent.dags.releases._LOOK_SECONDS", 0.001)
    assert ask("served", "--release", release, "--seconds", "60")["bundle_release"] == release
    assert looks == 3
    server.answers = lambda statement: [] if "FROM dag_bundle" not in statement else [("another",)]
    assert ask("served", "--release", release, "--seconds", "0.05")["bundle_release"] == "another"
    # Of a release that this host has no copy of nothing is known, so there is nothing to wait for.
    assert ask("served", "--release", "20260101T000000Z-abcdef0", "--seconds", "60")["bundle_release"] == "another"


def test_release_of_runs_that_may_be_cleared_is_needed_and_the_reason_told(server: Server) -> None:
    rows = {"end_date": [("cleared", 2)], "IN ('queued', 'running')": [("busy", 1)], "FROM dag\n": [("served", 3)]}
    # The longest match first: runs that ended are told by their end.
    server.answers = lambda statement: next(found for words, found in rows.items() if words in statement)
    assert database.needed(server, 7.5) == {
        "busy": ["1 unfinished run"],
        "served": ["3 DAGs served from it"],
        "cleared": ["2 runs that ended in the last 7.5 days and may be cleared"],
    }


def test_refresh_without_a_driver_is_false(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    (tmp_path / "airflow.cfg").write_text("[database]\nsql_alchemy_conn = postgresql://x@y/z\n")
    with database.refreshing(tmp_path / "airflow.cfg") as refresh:
        assert refresh() is False
