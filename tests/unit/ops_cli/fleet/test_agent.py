"""The one caller of `ops-agent serve`, and the real loop behind it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ops_cli.console.errors import ExitCode, OpsError
from ops_cli.fleet import agent, ssh
from ops_cli.fleet.agent import LockHeldError, Sessions
from ops_cli.fleet.conversation import SILENT, RemoteError
from ops_cli.fleet.inventory import Host
from tests.unit.ops_cli import served

HOST = Host("pg1", "10.0.0.1", "database", env="prod")
VERBS = """
import json, os, time

def main(words):
    verb, *rest = words[2:]
    if verb == "echo":
        print(json.dumps({"words": rest, "read": sys.stdin.read()}))
    elif verb == "vacuum":
        print(json.dumps({"event": "count"}), flush=True)
        print(json.dumps({"event": "moved"}), flush=True)
        print(json.dumps({"rows": 1}))
    elif verb == "query":
        print(json.dumps({"columns": ["a"]}))
        print(json.dumps({"rows": [[1]]}))
    elif verb == "check":
        print(json.dumps({"problems": ["x"]}))
        return 4
    elif verb == "fail":
        sys.stderr.write("ops-agent: " + " ".join(rest[1:]) + "\\n")
        return int(rest[0])
    elif verb == "cut":
        os.kill(os.getppid(), 9)
    elif verb == "sleep":
        time.sleep(60)
    return 0
"""
Answer = Callable[[str], served.Logins]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Let every login run a Python program."""

    def run(program: str) -> served.Logins:
        logins = served.Logins(served.python(program))
        monkeypatch.setattr(ssh, "converse", logins.converse)
        return logins

    return run


@pytest.fixture
def logins(answer: Answer) -> served.Logins:
    return answer(served.LOOP.format(verbs=VERBS))


def test_events_are_told_and_the_result_is_returned(logins: served.Logins) -> None:
    told: list[str] = []
    assert agent.result(HOST, ["vacuum"], tell=lambda line: told.append(line["event"]) or "") == {"rows": 1}
    assert told == ["count", "moved"]
    assert (len(logins.made), logins.commands) == (1, {"sudo -n /usr/local/bin/ops-agent serve"})


@pytest.mark.usefixtures("logins")
def test_words_and_input_arrive_as_they_are() -> None:
    found = agent.result(HOST, ["echo", "a b; $(reboot)", "ü\n"], stdin="SELECT 'ü'")
    assert found == {"words": ["a b; $(reboot)", "ü\n"], "read": "SELECT 'ü'"}


@pytest.mark.usefixtures("logins")
def test_file_is_sent_from_the_disk_and_the_session_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tree").write_bytes(b"x" * 3_000_000)
    with Sessions() as sessions:
        found = sessions.ask(HOST, ["echo"], timeout_seconds=60, data=tmp_path / "tree")
        assert len(found["read"]) == 3_000_000
        assert sessions.ask(HOST, ["echo"], timeout_seconds=60)["read"] == ""


@pytest.mark.usefixtures("logins")
def test_lines_that_are_no_event_come_in_their_order() -> None:
    assert list(agent.lines(HOST, ["query"])) == [{"columns": ["a"]}, {"rows": [[1]]}]


@pytest.mark.usefixtures("logins")
def test_failed_check_is_an_answer() -> None:
    assert agent.result(HOST, ["check"]) == {"problems": ["x"]}


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [(1, RemoteError, 1), (2, RemoteError, 2), (3, RemoteError, 1), (5, LockHeldError, 5), (130, RemoteError, 1)],
)
def test_failure_keeps_its_exit_class(
    logins: served.Logins, code: int, kind: type[OpsError], exit_code: ExitCode
) -> None:
    with pytest.raises(kind, match="pg1: the share is full; type ops status --env prod") as caught:
        agent.result(HOST, ["fail", str(code), "the share is full; type ops status --env ENV"])
    assert caught.value.exit_code == exit_code
    assert "ops-agent" not in str(caught.value)
    assert getattr(caught.value, "status", code) == code
    assert len(logins.made) == 1


@pytest.mark.parametrize(
    "program",
    [
        # An ops-agent from before it could serve, one that has not this verb, none at all, and what is none.
        "import sys; sys.exit('usage: ops-agent\\nops-agent: error: argument verb: invalid choice: \\'serve\\'')",
        served.LOOP.format(verbs="def main(words): sys.exit('ops-agent: error: argument verb: invalid choice: 1')"),
        served.LOOP.format(verbs="def main(words): sys.exit('ops-agent: error: unrecognized arguments: --new')"),
        "import sys; sys.exit('sudo: /usr/local/bin/ops-agent: command not found')",
        "print('Welcome to Debian')",
        "print('[1]')",
        "print()",
        "print('{\"answer\": 1}')",
        "print('{\"result\": 1}')",
        "import sys; sys.stdout.buffer.write(b'\\xff\\xfe\\n')",
    ],
)
def test_agent_of_another_version_is_told_by_one_hint(answer: Answer, program: str) -> None:
    answer(program)
    hint = r"^pg1: .*another version: type \S+ -i inventories/prod site\.yml --tags ops_agent,metadata_archive$"
    with pytest.raises(OpsError, match=hint):
        agent.result(HOST, ["vacuum"], stdin="x" * 1_000_000)
    with Sessions() as sessions, pytest.raises(OpsError, match=hint):
        sessions.ask(HOST, ["vacuum"], timeout_seconds=60)
    (reply,) = agent.survey([HOST], ["vacuum"], timeout_seconds=60)
    assert (reply.reachable, "another version" in reply.error) == (True, True)


def test_sudo_that_refuses_is_quoted(answer: Answer) -> None:
    answer("import sys; sys.exit('sudo: a password is required')")
    with pytest.raises(RemoteError, match=r"^pg1: sudo: a password is required$"):
        agent.result(HOST, ["vacuum"])


@pytest.mark.usefixtures("logins")
def test_line_that_is_cut_is_unreachable_and_the_next_question_logs_in_again(logins: served.Logins) -> None:
    with Sessions() as sessions:
        with pytest.raises(ssh.UnreachableError, match=r"pg1 \(10\.0\.0\.1\): the connection was lost"):
            sessions.ask(HOST, ["cut"], timeout_seconds=60)
        assert sessions.ask(HOST, ["echo"], timeout_seconds=60)["words"] == []
    assert len(logins.made) == 2


def test_failure_ends_no_session_and_silence_does(logins: served.Logins) -> None:
    with Sessions() as sessions:
        for _ in range(2):
            with pytest.raises(RemoteError, match="the share is full") as failed:
                sessions.ask(HOST, ["fail", "3", "the share is full"], timeout_seconds=60)
            assert failed.value.status == 3
        assert len(logins.made) == 1
        with pytest.raises(RemoteError, match=r"^pg1: no answer within 0\.5 s$") as silent:
            sessions.ask(HOST, ["sleep"], timeout_seconds=0.5)
        assert silent.value.status == SILENT
        assert sessions.ask(HOST, ["echo", "again"], timeout_seconds=60)["words"] == ["again"]
    assert len(logins.made) == 2


def test_many_hosts_are_asked_at_once_by_one_login_each(logins: served.Logins) -> None:
    hosts = [Host(f"web{number}", "10.0.0.1", "web") for number in range(3)]
    replies = agent.survey(hosts, ["echo", "a"], timeout_seconds=60)
    assert [reply.host for reply in replies] == hosts
    assert [reply.answer["words"] for reply in replies] == [["a"]] * 3
    assert sorted(logins.hosts) == [host.name for host in hosts]


@pytest.mark.usefixtures("logins")
def test_host_that_fails_or_hangs_costs_no_other_its_reply() -> None:
    (failed,) = agent.survey([HOST], ["fail", "3", "no database"], timeout_seconds=60)
    assert (failed.reachable, failed.error, failed.status, failed.answer) == (True, "no database", 3, {})
    (silent,) = agent.survey([HOST], ["sleep"], timeout_seconds=0.5)
    assert (silent.reachable, silent.error) == (True, "no answer within 0.5 s")
