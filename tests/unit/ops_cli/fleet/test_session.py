"""The loop that answers many questions over one login, in a real shell of this machine."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops_cli.console.errors import OpsError
from ops_cli.fleet import ssh
from ops_cli.fleet.conversation import RemoteError
from ops_cli.fleet.inventory import Host
from ops_cli.fleet.session import Sessions

HOST = Host("sched1", "10.0.0.1", "scheduler")
AGENT = """#!/bin/sh
case "$1" in
  say) echo "a warning" >&2; printf '{"words": "%s"}\\n' "$2" ;;
  fail) echo "ops-agent: the share is full" >&2; exit 3 ;;
  mutter) echo "no JSON" ;;
  die) kill -KILL $PPID ;;
esac
"""


class Shell:
    """What a login would run, run here."""

    def __init__(self, command: str) -> None:
        words = ["sh", "-c", command.removeprefix("sudo -n ")]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def send(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def lines(self, silence_seconds: float) -> Iterator[str]:
        assert silence_seconds > 0
        assert self.process.stdout
        for line in iter(self.process.stdout.readline, ""):
            yield line.rstrip("\n")


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Shell]:
    agent = tmp_path / "ops-agent"
    agent.write_text(AGENT)
    agent.chmod(0o755)
    monkeypatch.setattr(ssh, "AGENT", f"sudo -n {agent}")
    made: list[Shell] = []

    @contextmanager
    def converse(_host: Host, command: str) -> Iterator[Shell]:
        made.append(Shell(command))
        yield made[-1]
        made[-1].process.kill()
        made[-1].process.communicate()

    monkeypatch.setattr(ssh, "converse", converse)
    return made


def ask(sessions: Sessions, words: str) -> object:
    return sessions.ask(HOST, words, timeout_seconds=10)


def test_many_questions_are_one_login(logins: list[Shell]) -> None:
    with Sessions() as sessions:
        assert ask(sessions, "say one") == {"words": "one"}
        assert ask(sessions, "say 'two words; $(exit)'") == {"words": "two words; $(exit)"}
    assert len(logins) == 1


def test_failure_has_its_exit_code_and_reason_and_ends_nothing(logins: list[Shell]) -> None:
    with Sessions() as sessions:
        with pytest.raises(RemoteError, match="sched1: ops-agent: the share is full") as failure:
            ask(sessions, "fail")
        assert failure.value.status == 3
        assert ask(sessions, "say on") == {"words": "on"}
    assert len(logins) == 1


def test_answer_that_is_no_json_is_quoted(logins: list[Shell]) -> None:
    with Sessions() as sessions, pytest.raises(OpsError, match="ops-agent printed 'no JSON'"):
        ask(sessions, "mutter")
    assert len(logins) == 1


def test_lost_line_is_unreachable_and_the_next_question_logs_in_again(logins: list[Shell]) -> None:
    with Sessions() as sessions:
        with pytest.raises(ssh.UnreachableError, match=r"sched1 \(10\.0\.0\.1\): the connection was lost"):
            ask(sessions, "die")
        assert ask(sessions, "say again") == {"words": "again"}
    assert len(logins) == 2
