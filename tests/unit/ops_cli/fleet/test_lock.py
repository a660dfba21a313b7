"""The lock as the control node holds it, over a line that may be cut without a word."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from queue import Empty, Queue

import pytest

from ops_cli.console.errors import OpsError
from ops_cli.fleet import lock, ssh
from ops_cli.fleet.conversation import RemoteError
from ops_cli.fleet.inventory import Host, Inventory

FLEET = Inventory("prod", (Host("pg1", "10.0.0.1", "database", env="prod"),))
DEADLINE_SECONDS = 20


class Line:
    """A login that takes every word; `cut` and `old` do so without an answer."""

    host = FLEET.hosts[0]
    alive = True

    def __init__(self, first: str = "", *, old: bool = False) -> None:
        self.heard: Queue[str] = Queue()
        self.first = first or json.dumps({"held": True} if old else {"held": True, "answers": True})
        self.cut, self.beats = old, 0

    def send(self, line: str) -> None:
        self.beats += not line
        if not self.cut:
            self.heard.put(self.first if line else json.dumps({"held": True}))
        elif line and not self.beats:
            self.heard.put(self.first)

    def lines(self, silence_seconds: float) -> Iterator[str]:
        while True:
            try:
                yield self.heard.get(timeout=silence_seconds)
            except Empty:
                raise RemoteError(self.host, -1, "nothing heard") from None

    def say_last(self, line: str) -> None:
        self.last = line

    def failure(self) -> str:
        return "sudo: a password is required"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_ALIVE_SECONDS", 0.01)


def hold(monkeypatch: pytest.MonkeyPatch, line: Line) -> AbstractContextManager[lock.Operation]:
    @contextmanager
    def converse(_host: Host, _command: str) -> Iterator[Line]:
        yield line

    monkeypatch.setattr(ssh, "converse", converse)
    return lock.operation(FLEET, "deploy", lock="dags")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_lock_that_is_answered_for_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    with hold(monkeypatch, line) as held:
        until(lambda: line.beats > 3)
        held.check()
    assert json.loads(line.last)["result"] == "done"


def test_line_that_is_cut_without_a_word_loses_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_UNHEARD_SECONDS", 1.0)
    line = Line()
    with hold(monkeypatch, line) as held:
        until(lambda: line.beats > 3)
        line.cut = True
        until(held.lost.is_set)
        with pytest.raises(OpsError, match=r"the lock on pg1 was lost.*type: ops status --env prod"):
            held.check()


def test_agent_of_an_older_version_answers_nothing_and_holds_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_UNHEARD_SECONDS", 1.0)
    line = Line(old=True)
    with hold(monkeypatch, line) as held:
        until(lambda: line.beats > 200)
        held.check()


def test_host_that_answers_something_else_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(
            OpsError, match=r"pg1: the lock dags could not be asked for: sudo.*-i inventories/prod site\.yml"
        ),
        hold(monkeypatch, Line("Sorry, try again.")),
    ):
        pass
