"""Lets the tasks of this host's worker end before it stops, or refuses the stop. Run as root, by systemd.

The unit airfleet-worker-drain stops before airflow-worker does, so while its ExecStop waits here nobody has told the
worker anything: its stop can still be cancelled, and then the worker has never been away.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops_release.run import ProbeError, run

UNIT = "airflow-worker.service"
# As in ops_airflow.celery.drain, which runs in another Python.
ASKED = Path("/run/airflow-worker-drain/asked")
REPORT = Path("/run/airflow-worker/report.json")
# systemd ends a reboot by force after 30 minutes; what is left are five for tasks to be told.
REBOOT_LIMIT_SECONDS = 1500.0
SAY_EVERY_SECONDS = 60.0
# A worker that looks for its broker writes no report, and has no consumer either.
STALE_SECONDS = 15.0
_TIMEOUT_SECONDS = 30.0
_MAX_REPORT_BYTES = 4_000_000
_NAMED = ("dag_id", "run_id", "task_id", "try_number", "map_index")


@dataclass(frozen=True)
class Report:
    """What a worker says of itself; `at` is the kernel's monotonic clock in seconds."""

    pid: int
    at: float
    resting: bool
    tasks: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Unit:
    """What systemd says of the worker: its main process and the job that waits for it, 0 for none."""

    main_pid: int
    job: int


@dataclass
class Wait:
    """One stop that is being waited for: since when by the monotonic clock, for how long, for which job."""

    unit: Unit
    began: float
    limit_seconds: float
    shutting_down: bool
    said: float = field(default=float("-inf"))


def read_report(path: Path = REPORT) -> Report | None:
    """Return the worker's report, None if none can be read. Its directory is the worker's, so nothing is trusted."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            raw = json.loads(file.read(_MAX_REPORT_BYTES))
        tasks = tuple({str(name): value for name, value in task.items()} for task in raw["tasks"])
        return Report(int(raw["pid"]), float(raw["at"]), raw["resting"] is True, tasks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def line(task: dict[str, Any], now: float) -> str:
    """Name one task in words, e.g. `dag.task of run X, try 1, since 12:00:07 (75 s)`."""
    names = {name: re.sub(r"[^\x21-\x7e]", "?", str(task.get(name, ""))) for name in ("id", *_NAMED)}
    called = f"{names['dag_id']}.{names['task_id']}" if names["task_id"] else f"Celery's {names['id']}"
    index = f"[{names['map_index']}]" if task.get("map_index", -1) not in (-1, None) else ""
    run_ = f" of run {names['run_id']}, try {names['try_number']}" if names["run_id"] else ""
    since = task.get("since")
    if not isinstance(since, (int, float)):
        return f"{called}{index}{run_}, not begun"
    began = time.strftime("%H:%M:%S", time.localtime(since))
    return f"{called}{index}{run_}, since {began} ({max(now - since, 0):.0f} s)"


def busy(main_pid: int, proc: Path = Path("/proc")) -> set[int]:
    """Return the worker's processes that have one of their own below them, as each has that supervises a task."""
    parents: dict[int, int] = {}
    for entry in proc.glob("[0-9]*/stat"):
        try:
            # Behind the name, which is in brackets and may hold anything: state, then the parent.
            parents[int(entry.parent.name)] = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    pool = {pid for pid, parent in parents.items() if parent == main_pid}
    return {parent for parent in parents.values() if parent in pool and not _serves_logs(proc / str(parent))}


def _serves_logs(process: Path) -> bool:
    try:
        return (process / "cmdline").read_bytes().startswith(b"airflow serve-logs")
    except OSError:
        return False


def is_idle(report: Report | None, working: set[int], asked_at: float, now: float) -> bool:
    """Tell whether a worker that was asked at `asked_at` has nothing, and will get nothing."""
    if working or report is None:
        return False
    if now - report.at > STALE_SECONDS:
        return True
    return report.resting and report.at > asked_at and not report.tasks


def _show() -> Unit:
    shown = run(["systemctl", "show", "--property=MainPID,Job", UNIT], timeout_seconds=_TIMEOUT_SECONDS)
    found = dict(text.split("=", 1) for text in shown.splitlines() if "=" in text)
    return Unit(int(found.get("MainPID") or 0), int(found.get("Job") or 0))


def _is_shutting_down() -> bool:
    try:
        # It exits with 1 for anything but "running".
        return "stopping" in run(["sh", "-c", "systemctl is-system-running || :"], timeout_seconds=_TIMEOUT_SECONDS)
    except ProbeError:
        return False


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _what_runs(report: Report | None, working: set[int]) -> str:
    tasks = report.tasks if report else ()
    named = "; ".join(line(task, time.time()) for task in tasks)
    return named or f"{len(working)} processes of tasks that it has not named"


def drain(limit_seconds: float) -> int:
    """Wait until the worker has no task; return 1 if its stop was cancelled, here after the limit or by somebody."""
    unit = _show()
    if not unit.job or not unit.main_pid:
        return 0
    report = read_report()
    if report is None or report.pid != unit.main_pid:
        _say("the worker does not say what it runs: it is told to stop, and ends with its last task")
        return 0
    ASKED.touch()
    shutting_down = _is_shutting_down()
    limit = min(limit_seconds, REBOOT_LIMIT_SECONDS) if shutting_down else limit_seconds
    wait = Wait(unit, time.monotonic(), limit, shutting_down)
    while (end := _look(wait)) is None:
        time.sleep(0.5)
    return end


def _look(wait: Wait) -> int | None:
    """Return how the wait ends, None while it goes on."""
    unit, report, now = _show(), read_report(), time.monotonic()
    if unit.main_pid != wait.unit.main_pid:
        return 0
    if unit.job != wait.unit.job:
        ASKED.unlink(missing_ok=True)
        _say("the stop was taken back: the worker takes tasks again")
        return 1
    working = busy(unit.main_pid)
    if is_idle(report, working, wait.began, now):
        _say(f"no task runs after {now - wait.began:.0f} s: the worker may stop")
        return 0
    if now - wait.began >= wait.limit_seconds:
        return _give_up(wait, _what_runs(report, working))
    if now - wait.said >= SAY_EVERY_SECONDS:
        wait.said = now
        _say(f"waiting, for {wait.limit_seconds - (now - wait.began):.0f} s at most: {_what_runs(report, working)}")
    return None


def _give_up(wait: Wait, running: str) -> int:
    if wait.shutting_down:
        _say(f"this machine goes down, and after {wait.limit_seconds:.0f} s ends these tasks: {running}")
        run(["systemctl", "kill", "--kill-whom=main", "--signal=QUIT", UNIT], timeout_seconds=_TIMEOUT_SECONDS)
        return 0
    run(["systemctl", "cancel", str(wait.unit.job)], timeout_seconds=_TIMEOUT_SECONDS)
    ASKED.unlink(missing_ok=True)
    _say(f"refused to stop the worker, which takes tasks again: after {wait.limit_seconds:.0f} s still runs {running}")
    return 1


def tasks() -> int:
    """Print the tasks that the worker has, one a line."""
    report = read_report()
    for task in report.tasks if report else ():
        _say(line(task, time.time()))
    return 0


def ready() -> int:
    """Return 0 if the worker that runs takes tasks, else say so and return 1."""
    report, unit = read_report(), _show()
    if report and report.pid == unit.main_pid and not report.resting:
        return 0
    sys.stderr.write("ops-agent: airflow-worker takes no tasks; type: journalctl -u airflow-worker -n 30\n")
    return 1
