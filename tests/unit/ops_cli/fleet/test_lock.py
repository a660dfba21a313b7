"""The lock as the control node holds it, by the real loop and the real lock, over a line that may be cut."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ops_cli.console.errors import OpsError
from ops_cli.fleet import lock, ssh
from ops_cli.fleet.agent import LockHeldError
from ops_cli.fleet.inventory import Host, Inventory
from tests.unit.ops_cli import served

FLEET = Inventory("prod", (Host("pg1", "10.0.0.1", "database", env="prod"),))
DEADLINE_SECONDS = 60
VERBS = """
from pathlib import Path
from ops_agent.verbs import lock

def main(words):
    assert words[2:4] == ("operation", "--lock")
    return lock.hold(words[4], run_directory=Path({directory!r}), audit_file=Path({directory!r}) / "audit.jsonl")
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_ALIVE_SECONDS", 0.01)


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> served.Logins:
    verbs = VERBS.format(directory=str(tmp_path))
    logins = served.Logins(served.python(served.LOOP.format(verbs=verbs)))
    monkeypatch.setattr(ssh, "converse", logins.converse)
    return logins


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def audit(directory: Path) -> list[dict[str, object]]:
    until((directory / "audit.jsonl").exists)
    return [json.loads(line) for line in (directory / "audit.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("logins")
def test_lock_that_is_answered_for_is_held_and_leaves_an_audit_line(tmp_path: Path) -> None:
    with lock.operation(FLEET, "deploy", lock="dags", reason="why") as held:
        first = held.heard
        until(lambda: held.heard > first)
        held.check()
        held.hosts = ["sched1"]
    (line,) = audit(tmp_path)
    said = {name: line[name] for name in ("verb", "lock", "reason", "hosts", "result")}
    assert said == {"verb": "deploy", "lock": "dags", "reason": "why", "hosts": ["sched1"], "result": "done"}


@pytest.mark.usefixtures("logins")
def test_second_operation_is_refused_by_the_name_of_the_first_and_gets_the_lock_after_it() -> None:
    with lock.operation(FLEET, "deploy", lock="dags"):
        with (
            pytest.raises(LockHeldError, match=r"has run ops deploy since .*wait until it is over"),
            lock.operation(FLEET, "rollback", lock="dags"),
        ):
            pass
        with lock.operation(FLEET, "vacuum", lock="metadata") as other:
            other.check()
    with lock.operation(FLEET, "rollback", lock="dags") as held:
        held.check()


@pytest.mark.usefixtures("logins")
def test_failure_of_the_operation_is_in_its_audit_line(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock.operation(FLEET, "deploy", lock="dags"):
        raise KeyError
    assert audit(tmp_path)[0]["result"] == "KeyError: "


def test_line_that_is_cut_without_a_word_loses_the_lock(
    monkeypatch: pytest.MonkeyPatch, logins: served.Logins, tmp_path: Path
) -> None:
    monkeypatch.setattr(lock, "_UNHEARD_SECONDS", 2.0)
    with lock.operation(FLEET, "deploy", lock="dags") as held:
        # The host's processes stand still: what is sent is taken, and nothing comes back.
        (login,) = logins.made
        (child,) = Path(f"/proc/{login.process.pid}/task/{login.process.pid}/children").read_text().split()
        signal.pidfd_send_signal(os.pidfd_open(int(child)), signal.SIGSTOP)
        until(held.lost.is_set)
        with pytest.raises(OpsError, match=r"the lock on pg1 was lost.*type: ops status --env prod"):
            held.check()
        signal.pidfd_send_signal(os.pidfd_open(int(child)), signal.SIGCONT)
    assert audit(tmp_path)[0]["verb"] == "deploy"


def test_host_that_is_gone_loses_the_lock(logins: served.Logins) -> None:
    with lock.operation(FLEET, "deploy", lock="dags") as held:
        logins.made[0].process.kill()
        until(held.lost.is_set)
        with pytest.raises(OpsError, match="the lock on pg1 was lost"):
            held.check()


def test_killed_client_frees_the_lock(logins: served.Logins, tmp_path: Path) -> None:
    with lock.operation(FLEET, "deploy", lock="dags"):
        logins.made[0].input.close()
        logins.made[0].output.close()
        assert audit(tmp_path)[0]["result"] == "interrupted"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import sys; sys.exit('sudo: a password is required')", "pg1: sudo: a password is required"),
        ("print('Sorry, try again.')", "another version: type .* -i inventories/prod site.yml"),
        (
            "import sys; sys.exit('error: invalid choice: serve')",
            "another version: type .* -i inventories/prod site.yml",
        ),
    ],
)
def test_host_that_answers_something_else_says_why(monkeypatch: pytest.MonkeyPatch, program: str, reason: str) -> None:
    monkeypatch.setattr(ssh, "converse", served.Logins(served.python(program)).converse)
    with pytest.raises(OpsError, match=reason), lock.operation(FLEET, "deploy", lock="dags"):
        pass
