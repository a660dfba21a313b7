"""Sees what a DAG file does while it is imported: network, databases, metadata, programs, prints.

In the process that imports one file, and only there. Python's audit hook tells of everything that goes through the
interpreter; PostgreSQL's driver connects in C, so it is replaced. Confined on a host, there is no network either way.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from ops_agent.dags.gate.findings import Finding, Severity

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

MARK = "refused by the gate"

_NETWORK = {
    "socket.connect": "connects to",
    "socket.getaddrinfo": "looks up",
    "socket.gethostbyname": "looks up",
    "socket.sendto": "sends to",
}
_PROGRAMS = {
    "os.exec": "replaces its own process",
    "os.fork": "forks",
    "os.forkpty": "forks",
    "os.posix_spawn": "starts a program",
    "os.system": "starts a program",
    "subprocess.Popen": "starts a program",
}


class Guard:
    """Collects findings from when it is armed; it can never be taken away from a process again, only disarmed."""

    def __init__(self, tree: Path, file: str) -> None:
        self.root = f"{tree}/"
        self.file = file
        self.findings: set[Finding] = set()
        self.armed = False

    def arm(self) -> None:
        """Begin to watch this process."""
        sys.addaudithook(self._hear)
        # A fork that went on would import the file a second time, beside the gate's back.
        os.register_at_fork(after_in_child=self._end_fork)
        sys.stdout = _Prints(self)
        os._exit = self._exit
        self._refuse_libpq()
        self._refuse_metadata()
        self.armed = True

    def note(self, rule: str, message: str, severity: Severity = Severity.ERROR) -> None:
        """Record a finding at the line of the DAG file that is being executed, if there is one."""
        line, where = self._line()
        self.findings.add(Finding(self.file, line, rule, f"{message} while it is imported{where}", severity))

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event in _NETWORK:
            self._hear_network(event, arguments)
        elif event in _PROGRAMS:
            severity = Severity.ERROR if event.startswith(("os.fork", "os.exec")) else Severity.WARNING
            self.note("top-level-process", _PROGRAMS[event], severity)
            if event == "os.exec":
                raise PermissionError(MARK)
        elif event == "sqlite3.connect":
            self.note("top-level-database", f"opens the SQLite database {arguments[0]!r}")

    def _hear_network(self, event: str, arguments: tuple[Any, ...]) -> None:
        peer = arguments[0] if event.startswith("socket.get") else arguments[1]
        # None is a listening address, a string a socket of this machine.
        if event.startswith("socket.get") and peer in {None, "", "localhost"}:
            return
        if isinstance(peer, tuple):
            peer = f"{peer[0]}:{peer[1]}"
        elif not event.startswith("socket.get"):
            return
        self.note("top-level-network", f"{_NETWORK[event]} {_text(peer)}")
        raise ConnectionRefusedError(f"{MARK}: no network while a DAG file is imported")

    def _refuse_libpq(self) -> None:
        import psycopg2  # noqa: PLC0415

        def connect(dsn: str = "", *_arguments: Any, **_options: Any) -> NoReturn:
            self.note("top-level-database", f"opens a PostgreSQL connection ({_without_password(dsn)})")
            raise psycopg2.OperationalError(f"{MARK}: no database while a DAG file is imported")

        psycopg2._connect = connect  # noqa: SLF001

    def _refuse_metadata(self) -> None:
        from airflow.sdk.execution_time import task_runner  # noqa: PLC0415
        from airflow.sdk.execution_time.supervisor import block_orm_access  # noqa: PLC0415

        # What the DAG processor does to the process that imports a file, so that both see the same.
        os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "client"
        block_orm_access()
        task_runner.SUPERVISOR_COMMS = _Metadata(self)

    def _line(self) -> tuple[int, str]:
        """Return the line of the DAG file, and where below it the tree's own code is."""
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
        inner = ""
        while frame:
            name = frame.f_code.co_filename
            if name == self.root + self.file:
                return frame.f_lineno, inner
            if not inner and name.startswith(self.root):
                inner = f", in {name.removeprefix(self.root)} line {frame.f_lineno}"
            frame = frame.f_back
        return 1, inner

    def _end_fork(self) -> None:
        if self.armed:
            _EXIT(0)

    def _exit(self, status: int = 0) -> NoReturn:
        raise SystemExit(status)


_EXIT = os._exit


class _Prints(io.TextIOBase):
    """Standard output while a file is imported."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if text.strip():
            self.guard.note("output", f"prints {_text(text)!r}", Severity.WARNING)
        return len(text)


class _Metadata:
    """Answers for the API server: nothing is there, and asking is a finding."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    def send(self, message: Any) -> Any:
        from airflow.sdk.exceptions import ErrorType  # noqa: PLC0415
        from airflow.sdk.execution_time.comms import ErrorResponse  # noqa: PLC0415

        kind = type(message).__name__
        if kind == "MaskSecret":
            return None
        name = getattr(message, "key", None) or getattr(message, "conn_id", None) or ""
        self.guard.note("top-level-metadata", f"asks the metadata database ({kind} {name})".replace(" )", ")"))
        error = ErrorType.CONNECTION_NOT_FOUND if kind == "GetConnection" else ErrorType.VARIABLE_NOT_FOUND
        return ErrorResponse(error=error, detail={"reason": MARK})

    async def asend(self, message: Any) -> Any:
        return self.send(message)


def _text(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004


def _without_password(dsn: str) -> str:
    from sqlalchemy.engine import make_url  # noqa: PLC0415

    if "://" in dsn:
        return str(make_url(dsn).render_as_string(hide_password=True))
    return " ".join(word for word in (dsn or "").split() if not word.startswith("password")) or "no address given"
