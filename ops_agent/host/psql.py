"""psql as a session on this host: one statement in, one line of JSON out, as the server's own administrator."""

import contextlib
import json
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from ops_agent.host import settings
from ops_release.run import ProbeError

_BAD_CONNECTION = 2
_END_SECONDS = 2.0


def command() -> list[str]:
    """Return psql as administrator in the metadata database. Raises ProbeError if this host has no settings."""
    try:
        host = settings.load()
    except (OSError, ValueError, KeyError) as error:
        raise ProbeError(f"{settings.DIRECTORY}/agent.json: {error!r}; converge role ops_agent") from error
    words = ["runuser", "-u", "postgres", "--", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1"]
    return [*words, "-p", str(host.database_port), "-d", host.database]


class DatabaseDownError(ProbeError):
    """The server does not answer."""


class Psql:
    """Statements read `parameters` as `:'parameters'::jsonb`: psql itself quotes it, nobody interpolates."""

    def __init__(
        self,
        parameters: Mapping[str, Any] | None = None,
        *,
        application: str = "ops",
        words: Sequence[str] | None = None,
    ) -> None:
        """Start psql; whether the server answers is found out by the first statement."""
        settings = {"OPS_PARAMETERS": json.dumps(parameters or {}), "PGAPPNAME": application, "PGCONNECT_TIMEOUT": "3"}
        self._process = subprocess.Popen(
            words or command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=os.environ | settings,
        )
        self._read = b""
        self.tell("\\getenv parameters OPS_PARAMETERS")

    def __enter__(self) -> Self:
        """Return the session itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it; what it was doing is rolled back."""
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tell(self, statements: str) -> None:
        """Send statements that return nothing; that one of them failed is said by the next ask()."""
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin:
                self._process.stdin.write(statements.encode() + b"\n")
                self._process.stdin.flush()

    def ask(self, statement: str, *, timeout_seconds: float = 8.0) -> Any:
        """Return the one value of the one row of `statement`, which must be JSON.

        Raises DatabaseDownError if the server does not answer, ProbeError if it refuses.
        """
        self.tell(statement.rstrip().removesuffix(";") + ";")
        end = time.monotonic() + timeout_seconds
        stdout = self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
            while b"\n" not in self._read:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise DatabaseDownError(f"no answer within {timeout_seconds:g} s")
                if not (chunk := os.read(stdout.fileno(), 65536)):  # type: ignore[union-attr]
                    raise self._failure()
                self._read += chunk
        line, _, self._read = self._read.partition(b"\n")
        return json.loads(line)

    def _failure(self) -> ProbeError:
        stderr = self._process.stderr.read().decode() if self._process.stderr else ""
        code = self._process.wait()
        reason = next((line for line in stderr.splitlines() if line.strip()), f"psql: exit code {code}")
        kind = DatabaseDownError if code == _BAD_CONNECTION else ProbeError
        return kind(reason.removeprefix("psql: error: ").partition("ERROR:  ")[2] or reason)
