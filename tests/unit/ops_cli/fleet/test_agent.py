from collections.abc import Iterator
from typing import Any

import pytest

from ops_cli.console.errors import ExitCode, OpsError
from ops_cli.fleet import agent, ssh
from ops_cli.fleet.conversation import RemoteError
from ops_cli.fleet.inventory import Host
from ops_cli.fleet.lock import LockHeldError

HOST = Host("pg1", "10.0.0.1", "database")


def answer(monkeypatch: pytest.MonkeyPatch, *lines: str, status: int = 0, reason: str = "") -> list[str]:
    """Let the host print `lines` and end with `status`; give the commands that it gets and their input."""
    asked: list[str] = []

    def stream(host: Host, command: str, *, stdin: Any, timeout_seconds: float) -> Iterator[str]:
        assert timeout_seconds > 0
        asked.extend((command, stdin.read().decode()))
        yield from lines
        if status:
            raise RemoteError(host, status, reason)

    monkeypatch.setattr(ssh, "stream", stream)
    return asked


def test_last_line_is_the_result_and_the_others_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, '{"event": "a"}', '{"event": "b"}', '{"rows": 1}')
    told: list[str] = []
    assert agent.result(HOST, ["vacuum"], tell=lambda line: told.append(line["event"]) or "") == {"rows": 1}
    assert told == ["a", "b"]


def test_words_are_quoted_and_input_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer(monkeypatch, "{}")
    agent.result(HOST, ["vacuum", "--dag", "a b; reboot"], stdin="retention: 90d")
    assert asked == ["sudo -n /usr/local/bin/ops-agent vacuum --dag 'a b; reboot'", "retention: 90d"]


def test_failed_check_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, '{"problems": ["x"]}', status=4)
    assert agent.result(HOST, ["archive"]) == {"problems": ["x"]}


def test_held_lock_names_its_holder_and_exits_with_5(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, status=5, reason="ops-agent: vacuum by alice@ctl has been at it since noon")
    with pytest.raises(LockHeldError, match="vacuum by alice@ctl") as caught:
        agent.result(HOST, ["vacuum"])
    assert caught.value.exit_code is ExitCode.LOCKED
    assert "ops-agent: " not in str(caught.value)


def test_older_agent_on_the_host_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, status=2, reason="usage: ops-agent\nops-agent: error: argument verb: invalid choice: 'vacuum'")
    with pytest.raises(OpsError, match="--tags ops_agent,metadata_archive"):
        agent.result(HOST, ["vacuum"])


@pytest.mark.parametrize("line", ["Welcome to Debian", "[1]", ""])
def test_anything_but_an_object_is_no_answer(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    answer(monkeypatch, line)
    with pytest.raises(OpsError, match="no answer"):
        agent.result(HOST, ["vacuum"])


def test_end_without_a_result_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, '{"event": "count"}')
    with pytest.raises(OpsError, match="without a result"):
        agent.result(HOST, ["vacuum"])
