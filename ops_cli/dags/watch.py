"""Looks after a release for some time after its flip, and says when things have become worse than before it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ops_cli.console.errors import ExitCode, OpsError, UsageError
from ops_cli.fleet.conversation import RemoteError
from ops_cli.fleet.ssh import UnreachableError

# A look that is lost says nothing of the release.
LOST = (UnreachableError, RemoteError)
# The end may fall into a time in which nobody answers.
_LAST_LOOK_SECONDS = 60.0

_EVERY_SECONDS = 5.0
_UNITS = {"s": 1, "m": 60, "h": 3600}

# Fewer failures say nothing: a flaky task fails on any day.
_FAILURES_LEAST = 3
_FAILURE_RATE_MORE = 0.10
_FAILURE_RATE_TIMES = 2.0
_PARSE_TIMES = 3.0
_PARSE_SECONDS_MORE = 2.0


class RegressionError(OpsError):
    """Things are worse than before the flip."""

    of_the_commit = True


class UnwatchedError(OpsError):
    """Nobody could see at the end how a release does, which is no reason to take it back."""

    exit_code = ExitCode.UNREACHABLE


class Observed(Protocol):
    """What a watch asks of the fleet."""

    def health(self, since_seconds: float) -> dict[str, Any]:
        """Say how DAGs are parsed and tasks end."""


@dataclass(frozen=True)
class Watch:
    """For how long to look, and how it was in the hour before."""

    seconds: float
    before: Mapping[str, Any]

    def run(
        self,
        hosts: Observed,
        say: Callable[[str], None],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        """Look until the time is over. Raises RegressionError, and UnwatchedError if the last looks were lost.

        A minute is added in which a look may still succeed.
        """
        started = seen = clock()
        lost: OpsError | None = None
        while (left := started + self.seconds - clock()) > 0 or (lost and left > -_LAST_LOOK_SECONDS):
            say(f"watching for another {max(0, left):.0f} s" + (f"; no answer: {lost}" if lost else ""))
            sleep(min(_EVERY_SECONDS, left) if left > 0 else _EVERY_SECONDS)
            try:
                now = hosts.health(max(1.0, clock() - started))
            except LOST as error:
                lost = error
                continue
            lost, seen = None, clock()
            if worse := regression(self.before, now):
                raise RegressionError(f"since the flip {worse}")
        if lost:
            raise UnwatchedError(f"nobody could see for {clock() - seen:.0f} s how it does: {lost}") from lost


def regression(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what became worse since the flip, in words; empty if nothing did."""
    if now["import_errors"] > before["import_errors"]:
        return f"{now['import_errors']} DAG files cannot be imported, before it was {before['import_errors']}"
    for file, seconds in now["parse_seconds"].items():
        usual = before["parse_seconds"].get(file, 0.0)
        if seconds > max(usual * _PARSE_TIMES, usual + _PARSE_SECONDS_MORE):
            return f"{file} takes {seconds:.1f} s to parse, before it was {usual:.1f} s"
    failed, rate = now["failed"], _rate(now)
    usual_rate = _rate(before)
    if failed >= _FAILURES_LEAST and rate > max(usual_rate * _FAILURE_RATE_TIMES, usual_rate + _FAILURE_RATE_MORE):
        worst = ", ".join(now["failed_dags"])
        return f"{failed} tasks failed ({worst}), {rate:.0%} of those that ended; in the hour before {usual_rate:.0%}"
    return ""


def duration(text: str) -> float:
    """Return the seconds of a duration such as 90s, 10m or 1h. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,6})([smh])", text.strip())
    if not match:
        raise UsageError(f"{text!r} is no duration; write 90s, 10m or 1h, with six digits at most")
    return float(match[1]) * _UNITS[match[2]]


def _rate(health: Mapping[str, Any]) -> float:
    ended = health["failed"] + health["succeeded"]
    return health["failed"] / ended if ended else 0.0
