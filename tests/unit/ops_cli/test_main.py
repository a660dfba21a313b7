import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ops_cli import main
from ops_cli.fleet import agent, inventory
from ops_cli.fleet.inventory import Host


@pytest.fixture(autouse=True)
def _at_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPS_HOME", str(root))


def answer_with(monkeypatch: pytest.MonkeyPatch, report: str = "", error: str = "", *, reachable: bool = True) -> None:
    def survey(hosts: Sequence[Host], words: Sequence[str], *, timeout_seconds: float) -> list[agent.Reply]:
        assert (words, timeout_seconds > 0) == (["status", "--json"], True)
        return [agent.Reply(host, reachable, json.loads(report or "{}"), error) for host in hosts]

    monkeypatch.setattr(agent, "survey", survey)


def test_status_of_a_healthy_fleet_exits_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_with(monkeypatch, '{"units": []}')
    assert main.run(["status", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["healthy"] is True


def test_status_of_a_degraded_fleet_exits_with_4_and_names_the_unit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_with(monkeypatch, '{"units": [{"name": "x.service", "state": "failed", "expected": "active"}]}')
    assert main.run(["status"]) == 4
    assert "lb1: x.service is failed, should be active" in capsys.readouterr().out


def test_status_without_reachable_hosts_exits_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_with(monkeypatch, error="no login", reachable=False)
    assert main.run(["status"]) == 3
    assert "nfs1 (10.77.0.71) is unreachable" in capsys.readouterr().out


def test_status_survives_a_host_that_prints_no_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_with(monkeypatch, error="ops-agent printed 'Welcome to Debian', which is no answer")
    assert main.run(["status"]) == 4
    assert "ops-agent printed 'Welcome to Debian'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "Usage: ops"),
        (["fly"], "fly"),
        (["status", "--format", "xml"], "xml"),
        (["--env", "moon", "status"], "no environment 'moon'"),
        (["status", "--env", "moon"], "no environment 'moon'"),
        (["status", "--watch", "--format", "json"], "--watch"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(words) == 2
    printed = capsys.readouterr()
    assert text in printed.err
    assert printed.out == ""


def test_environment_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPS_ENV", "moon")
    assert main.run(["status"]) == 2
    assert "'moon'" in capsys.readouterr().err


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def load(_env: str, _home: Path) -> None:
        raise error

    monkeypatch.setattr(inventory, "load", load)


def test_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    assert main.run(["status"]) == 130


def test_bug_is_one_line_and_a_traceback_only_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, RuntimeError("a bug"))
    assert main.run(["status"]) == 1
    assert capsys.readouterr().err == "ops: RuntimeError: a bug; -vv shows where\n"
    assert main.run(["-vv", "status"]) == 1
    assert 'test_main.py", line' in capsys.readouterr().err
