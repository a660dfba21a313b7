"""The scheduler's process: forked, watched through a pipe, killed with everything it started, never outliving us."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import struct
import time
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_REPORT = struct.Struct("d")
_REPORT_EVERY_SECONDS = 0.2
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends; die now if it has ended already."""
    if _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) or os.getppid() != parent:
        os._exit(70)


def die_with_parent_forever() -> None:
    """Have every descendant die with the process that forked it: the kernel forgets the wish at each fork."""
    forker = [0]
    os.register_at_fork(before=lambda: forker.__setitem__(0, os.getpid()), after_in_child=lambda: _die_with(forker[0]))


def _become_child(parent: int) -> None:
    _die_with(parent)
    die_with_parent_forever()
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        os.environ.pop(name, None)


def reporter(pipe: int) -> Callable[[float | None], None]:
    """Return what a scheduler calls at the end of each loop."""
    last = [0.0]

    def report(sent_through: float | None) -> None:
        now = time.monotonic()
        if now - last[0] >= _REPORT_EVERY_SECONDS:
            last[0] = now
            # A keeper that reads nothing is frozen; the scheduler must not freeze with it, so the pipe may overflow.
            with contextlib.suppress(BlockingIOError):
                os.write(pipe, _REPORT.pack(math.nan if sent_through is None else sent_through))

    report.pipe = pipe  # type: ignore[attr-defined]
    return report


class SchedulerProcess:
    """At most one child at a time."""

    def __init__(self, main: Callable[[Callable[[float | None], None], float | None], int]) -> None:
        """Take what runs in the child: given a function to report progress and what to send again from, it returns."""
        self._main = main
        self.pid = 0
        self.pipe = -1

    def start(self, resend_after: float | None, close_in_child: list[int]) -> None:
        """Fork. `close_in_child` are the keeper's sockets, which would stay open as long as the child lives."""
        if self.pid:
            raise RuntimeError(f"scheduler {self.pid} is alive")
        parent = os.getpid()
        self.pipe, pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        pid = os.fork()
        if pid:
            os.close(pipe)
            self.pid = pid
            return
        status = 71
        try:
            _become_child(parent)
            for descriptor in [*close_in_child, self.pipe]:
                os.close(descriptor)
            status = self._main(reporter(pipe), resend_after)
        except BaseException:  # noqa: BLE001 - nothing of this copy of the keeper may go on
            traceback.print_exc()
        finally:
            os._exit(status)

    def progress(self) -> float | None:
        """Read what the child reported last; None if it cannot tell what it sent. Raises BlockingIOError, EOFError."""
        data = os.read(self.pipe, 65536)
        if not data:
            raise EOFError
        [last] = _REPORT.unpack(data[-_REPORT.size :])
        return None if math.isnan(last) else last

    def end(self) -> None:
        """Ask it to finish its loop."""
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and all it started, frozen or not."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> str | None:
        """Return how it ended if it has, else None."""
        if not self.pid:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        os.close(self.pipe)
        self.pid, self.pipe = 0, -1
        code = os.waitstatus_to_exitcode(status)
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return f"the scheduler {how}"
