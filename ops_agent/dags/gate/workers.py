"""Forks a process for each DAG file from one that has Airflow imported, and bounds its time and memory.

A fork costs milliseconds where a new interpreter with Airflow costs seconds: that is what makes 500 files bearable.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import resource
import select
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops_agent.dags.gate.findings import Dag, Finding, Imported, Severity
from ops_agent.dags.gate.places import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Ours to import another file; the kernel's hard limit ends what ignores the first signal.
_GRACE_SECONDS = 1
_OUTPUT_BYTES = 32 << 20


@dataclass(frozen=True)
class Limits:
    """What the import of one file may take: seconds of wall clock and processor, MiB beyond what Airflow itself has."""

    seconds: float = 30.0
    memory_mib: int = 1024
    jobs: int = 0

    @property
    def processes(self) -> int:
        """How many files are imported at the same time."""
        return self.jobs or len(os.sched_getaffinity(0))


class _Child:
    """A forked process, what it will report, and until when it may."""

    def __init__(self, path: Path, tree: Path, limits: Limits, work: Callable[[Path, Path], Imported]) -> None:
        self.path, self.tree, self.limits = path, tree, limits
        # In memory: the import may have filled the disk, and closed every descriptor it knows.
        self.answer = os.memfd_create("answer")
        self.trace = os.memfd_create("trace")
        self.deadline = time.monotonic() + limits.seconds + _GRACE_SECONDS
        self.pid = os.fork()
        if not self.pid:
            _run(path, tree, limits, work, self.answer, self.trace)
        self.handle = os.pidfd_open(self.pid)

    def collect(self) -> Imported:
        """Wait for the end, which must be near, and return what the process reported or how it died."""
        timed_out = time.monotonic() >= self.deadline
        if timed_out:
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        # What it started is in its session; what left that is ours by the subreaper, and ends with us.
        _kill_group(self.pid)
        raw, trace = _read(self.answer), _read(self.trace).decode(errors="replace")
        for descriptor in (self.answer, self.trace, self.handle):
            os.close(descriptor)
        if raw and not timed_out:
            try:
                return _imported(json.loads(raw))
            except (ValueError, KeyError, TypeError):
                trace += "\nits report cannot be read"
        return self._lost(status, trace, timed_out=timed_out)

    def _lost(self, status: int, trace: str, *, timed_out: bool) -> Imported:
        file = str(self.path.relative_to(self.tree))
        # faulthandler names the innermost call first.
        line = next((line for name, line in frames(trace, str(self.tree)) if name == file), 1)
        rule, text = "died", f"its import ended the process with exit code {os.waitstatus_to_exitcode(status)}"
        if timed_out or "Timeout (" in trace or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
            rule, text = "hangs", f"its import is not over after {self.limits.seconds:g} s"
        elif os.WIFSIGNALED(status):
            text = f"its import was killed by {_signal(os.WTERMSIG(status))}"
        return Imported(file, 0.0, findings=(Finding(file, line, rule, text),), source=_source(self.path))


def run(
    files: Sequence[Path], tree: Path, limits: Limits, work: Callable[[Path, Path], Imported]
) -> Iterator[Imported]:
    """Import every file in a process of its own, some at a time; yield the results as they come."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    gc.collect()
    # Or every collection in every child would copy the pages of all of Airflow.
    gc.freeze()
    waiting, running = list(reversed(files)), dict[int, _Child]()
    try:
        while waiting or running:
            while waiting and len(running) < limits.processes:
                child = _Child(waiting.pop(), tree, limits, work)
                running[child.handle] = child
            for handle in _ended(running):
                yield running.pop(handle).collect()
    finally:
        for child in running.values():
            os.kill(child.pid, signal.SIGKILL)
            child.collect()
        _kill_strays()
        gc.unfreeze()


def _ended(running: dict[int, _Child]) -> list[int]:
    poll = select.poll()
    for handle in running:
        poll.register(handle, select.POLLIN)
    left = min(child.deadline for child in running.values()) - time.monotonic()
    ended = [handle for handle, _ in poll.poll(max(0.0, left) * 1000)]
    now = time.monotonic()
    return ended or [handle for handle, child in running.items() if child.deadline <= now]


def _run(  # noqa: PLR0913, PLR0917
    path: Path, tree: Path, limits: Limits, work: Callable[[Path, Path], Imported], answer: int, trace: int
) -> None:
    """Be the child: never returns."""
    code = 1
    leave = os._exit
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _limit(limits)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        faulthandler.enable(trace)
        faulthandler.dump_traceback_later(limits.seconds, file=trace, exit=True)
        faulthandler.register(signal.SIGXCPU, trace, chain=True)
        done = work(path, tree)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.write(answer, json.dumps(asdict(done)).encode())
        code = 0
    except BaseException as error:  # noqa: BLE001
        os.write(trace, f"{type(error).__name__}: {error}".encode(errors="replace"))
    finally:
        leave(code)


def _limit(limits: Limits) -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    memory = pages * resource.getpagesize() + (limits.memory_mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (memory, resource.RLIM_INFINITY))
    seconds = int(limits.seconds + _GRACE_SECONDS)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_OUTPUT_BYTES, _OUTPUT_BYTES))


def _imported(raw: dict[str, Any]) -> Imported:
    findings = tuple(Finding(**found | {"severity": Severity(found["severity"])}) for found in raw["findings"])
    return Imported(raw["file"], raw["seconds"], tuple(map(Dag.from_json, raw["dags"])), findings, raw["source"])


def _read(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        return stream.read()


def _signal(number: int) -> str:
    # Of the real-time signals the first and the last alone have names.
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _source(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.suffix == ".py" else ""
    except OSError:
        # Its own import may have removed it.
        return ""


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def _kill_strays() -> None:
    """End what left its session: orphans come to us, the subreaper."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    for pid in map(int, children.read_text(encoding="ascii").split() if children.exists() else ()):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
