"""What an error of the engine means to whoever asked: one line and an exit code."""

from __future__ import annotations

import traceback
from pathlib import Path

from ops_agent.metadata.shelf.manifest import ArchiveError

FAILED, USAGE, LOCKED, INTERRUPTED = 1, 2, 5, 130


class UsageError(Exception):
    """The words do not fit together."""


def meaning(error: BaseException) -> tuple[str, int]:
    """Return the line and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing is lost, type the command again to go on", INTERRUPTED
    if isinstance(error, UsageError):
        return _line(error), USAGE
    if isinstance(error, (ArchiveError, OSError, ValueError, KeyError)):
        return _line(error), LOCKED if type(error).__name__ == "HeldError" else FAILED
    # psycopg is not there to be named before the libraries are.
    if type(error).__module__.startswith("psycopg"):
        return f"PostgreSQL: {_line(error)}", FAILED
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {_line(error)} ({Path(last.filename).name} line {last.lineno})", FAILED


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
