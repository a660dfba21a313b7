"""What `ops` says when it cannot go on, and the exit code that goes with it."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every `ops` command; docs/reference/cli.md lists them for operators."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    CHECK_FAILED = 4
    LOCKED = 5
    INTERRUPTED = 130


class OpsError(Exception):
    """An operation cannot go on; the text says what, where and the next command to type."""

    exit_code = ExitCode.FAILED
    of_the_commit = False
    """Whether the same DAG files would fail in the same way again, however the fleet is then."""


class UsageError(OpsError):
    """What was typed, or the inventory it names, cannot be used."""

    exit_code = ExitCode.USAGE
