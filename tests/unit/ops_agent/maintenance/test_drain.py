"""What a stop of the worker is decided by: the worker's own report, and the processes that the kernel knows."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ops_agent.maintenance import drain as worker_drain
from ops_airflow.celery import drain as celery_drain

TASK = {"id": "c0ffee", "dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 2, "since": 1000.0}
NOW = 500.0
IDLE = worker_drain.Report(pid=7, at=NOW, resting=True, tasks=())
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print("up", flush=True)
sys.stdin.read()
"""
SUPERVISOR = """
import subprocess, sys
task = subprocess.Popen(["sleep", "60"])
print("up", flush=True)
sys.stdin.read()
task.kill()
"""


def _write(path: Path, **changes: Any) -> Path:
    whole = {"pid": 7, "at": 1.5, "resting": False, "tasks": [TASK]}
    path.write_text(json.dumps(whole | changes))
    return path


def test_report_is_read_as_the_worker_wrote_it(tmp_path: Path) -> None:
    assert worker_drain.read_report(_write(tmp_path / "report.json")) == worker_drain.Report(
        7, 1.5, resting=False, tasks=(TASK,)
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": 1}', "\0", '{"pid": 7, "at": 1, "tasks": [3]}'])
def test_damaged_report_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    assert worker_drain.read_report(tmp_path / "report.json") is None


def test_link_or_pipe_in_the_reports_place_is_not_followed_and_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(_write(tmp_path / "report.json"))
    os.mkfifo(tmp_path / "pipe")
    assert worker_drain.read_report(tmp_path / "link") is None
    assert worker_drain.read_report(tmp_path / "pipe") is None


def test_task_is_named_in_words() -> None:
    since = time.strftime("%H:%M:%S", time.localtime(1000))
    assert worker_drain.line(TASK, 1075.2) == f"d.t of run r, try 2, since {since} (75 s)"
    assert worker_drain.line(TASK | {"map_index": 3}, 1075).startswith("d.t[3] of run r")
    assert worker_drain.line(TASK | {"since": None}, 1075) == "d.t of run r, try 2, not begun"
    assert worker_drain.line({"id": "c0ffee", "since": None}, 1075) == "Celery's c0ffee, not begun"


def test_name_that_would_write_to_a_terminal_is_made_plain() -> None:
    assert "\x1b" not in worker_drain.line(TASK | {"run_id": "\x1b[2J\nroot"}, 1)
    assert "\n" not in worker_drain.line(TASK | {"run_id": "\x1b[2J\nroot"}, 1)


@pytest.mark.parametrize(
    ("change", "working", "idle"),
    [
        ({}, set(), True),
        ({}, {8}, False),
        ({"tasks": (TASK,)}, set(), False),
        ({"resting": False}, set(), False),
        ({"at": NOW - 11}, set(), False),
        # It looks for its broker: nothing comes from there, so the processes alone decide.
        ({"at": NOW - 16, "resting": False, "tasks": (TASK,)}, set(), True),
        ({"at": NOW - 16, "resting": False}, {8}, False),
    ],
)
def test_worker_is_idle_when_it_has_nothing_and_gets_nothing(
    change: dict[str, Any], working: set[int], *, idle: bool
) -> None:
    report = worker_drain.Report(**{**IDLE.__dict__, **change})
    assert worker_drain.is_idle(report, working, NOW - 10, NOW) is idle


def test_worker_that_says_nothing_is_not_taken_for_idle() -> None:
    assert not worker_drain.is_idle(None, set(), NOW - 10, NOW)


@pytest.mark.parametrize(("child", "expected"), [(SUPERVISOR, 1), ("print('up', flush=True); input()", 0)])
def test_process_of_the_pool_is_busy_while_it_has_one_below_it(child: str, expected: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(child=child)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as main:
        assert main.stdout
        main.stdout.readline()
        assert len(worker_drain.busy(main.pid)) == expected


def _request(ident: str, started: float | None, workload: Any) -> SimpleNamespace:
    return SimpleNamespace(id=ident, time_start=started, args=[json.dumps(workload)])


def test_report_names_tasks_oldest_first_and_holds_no_token() -> None:
    workload = {"token": "s3cret", "ti": {name: TASK[name] for name in TASK if name not in ("id", "since")}}
    requests = [_request("waits", None, workload), _request("b", 2.0, workload), _request("a", 1.0, {"callback": {}})]
    found = celery_drain.described(requests)
    assert [task["id"] for task in found] == ["a", "b", "waits"]
    assert found[1] == TASK | {"id": "b", "since": 2.0}
    assert found[0] == {"id": "a", "since": 1.0}
    assert "s3cret" not in json.dumps(found)


def test_both_sides_mean_the_same_files() -> None:
    assert (worker_drain.ASKED, worker_drain.REPORT) == (celery_drain.ASKED, celery_drain.REPORT)
