"""Brings a published release into service and verifies it; what fails after the flip is taken back.

Pure but for the `Hosts` it is given and the clock, so that every failure is tested without SSH.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Protocol

from ops_cli.console import hints
from ops_cli.console.errors import ExitCode, OpsError
from ops_cli.dags.hosts import Warmed
from ops_cli.dags.watch import LOST, UnwatchedError, Watch

# The host has waited already.
_POLL_SECONDS = 0.2
# An import error may be the old release's, not yet replaced.
_SETTLE_SECONDS = 5.0
_SHOWN = 5


class Hosts(Protocol):
    """What a rollout asks of the fleet."""

    def warm(self, release: str) -> list[Warmed]:
        """Copy a release to every host."""

    def flip(self, release: str) -> dict[str, Any]:
        """Make a release the current one."""

    def served(self, release: str = "") -> dict[str, Any]:
        """Say which DAG is served from which release, if one is given as soon as all are served from it."""

    def health(self, since_seconds: float) -> dict[str, Any]:
        """Say how DAGs are parsed and tasks end."""


class RolledBackError(OpsError):
    """The release was taken back; the text says which DAG and why, and what serves now."""

    def __init__(self, reason: str, cause: BaseException) -> None:
        super().__init__(reason)
        self.of_the_commit = isinstance(cause, OpsError) and cause.of_the_commit


class NotServedError(OpsError):
    """The database shows that a release is not served as it should be."""

    of_the_commit = True


class UnseenError(OpsError):
    """Whether a release is served could not be seen for long."""

    exit_code = ExitCode.UNREACHABLE


@dataclass
class Result:
    """What a rollout did; seconds are of each step, `visible_seconds` and `verified_seconds` since the flip began."""

    release: str
    previous: str | None = None
    hosts: Sequence[Warmed] = ()
    flipped_seconds: float = 0.0
    visible_seconds: float | None = None
    verified_seconds: float | None = None
    rolled_back: bool = False
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Expected:
    """What must be seen in the database: all DAGs of the release, by their files, and first those that change."""

    files: Mapping[str, str]
    affected: frozenset[str] = frozenset()
    tree: frozenset[str] = frozenset()
    """All files of the release; the database knows import errors of others for a while. Empty if they are not known."""

    @classmethod
    def of(cls, manifest: Mapping[str, Any], affected: Collection[str] = ()) -> "Expected":
        """Return the DAGs that the gate saw in a release; none if it was published without the gate."""
        dags = (manifest.get("validation") or {}).get("dags", [])
        tree = frozenset(manifest.get("digests") or manifest.get("files") or ())
        return cls({dag["dag_id"]: dag["file"] for dag in dags}, frozenset(affected), tree)

    def has(self, file: str) -> bool:
        """Whether a file, or the archive that it is in, belongs to the release."""
        return not self.tree or any(str(name) in self.tree for name in (file, *PurePosixPath(file).parents))


@dataclass
class Rollout:
    """One release on its way into service."""

    hosts: Hosts
    say: Callable[[str], None]
    check: Callable[[], None]
    env: str
    stall_seconds: float = 120.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def warm(self, result: Result) -> None:
        """Have every host copy the release; raise OpsError if a host that answers cannot."""
        self.say("copying it to every host")
        result.hosts = self.hosts.warm(result.release)
        broken = [f"{one.host}: {one.error}" for one in result.hosts if one.reachable and one.error]
        if broken:
            raise OpsError(f"not every host can serve {result.release} ({'; '.join(broken)}); nothing was changed")
        if not any(one.reachable for one in result.hosts):
            raise OpsError(f"no host answers, so nothing was changed; type: {hints.ops(self.env, 'status')}")
        away = [one.host for one in result.hosts if not one.reachable]
        if away:
            result.warnings.append(f"{', '.join(away)} did not answer and will copy {result.release} on return")

    def serve(self, result: Result, expected: Expected, back: Expected, watch: Watch | None = None) -> None:
        """Flip, verify and watch. Raises RolledBackError if the release had to be taken back.

        `back` is what the release that serves until now must show when it serves again.
        """
        self.check()
        started = self.clock()
        self.say("flipping")
        try:
            self.hosts.flip(result.release)
            result.flipped_seconds = self.clock() - started
            self.say("verifying that every DAG is served from it")
            self._verify(result, expected, started)
            if watch:
                watch.run(self.hosts, self.say, self.clock, self.sleep)
        except UnwatchedError as error:
            look = hints.ops(self.env, "status")
            raise UnwatchedError(f"{result.release} serves, but {error}; type: {look}") from error
        except BaseException as error:  # noqa: BLE001 - whatever it is, the old release must serve
            self._take_back(result, back, error)

    def _take_back(self, result: Result, back: Expected, error: BaseException) -> None:
        reason = str(error) or "interrupted"
        if not result.previous or result.previous == result.release:
            raise OpsError(f"{reason}; there is no release to go back to, {result.release} stays current") from error
        self.say(f"taking it back: {reason}")
        undone = Result(result.previous, result.release)
        try:
            self.hosts.flip(result.previous)
            self._verify(undone, back, self.clock())
        except UnseenError as unseen:
            raise UnseenError(f"{reason}; {result.previous} is current again, but {unseen}") from error
        except OpsError as second:
            raise OpsError(
                f"{reason}; and going back to {result.previous} failed too: {second}; see docs/runbooks/bad-deploy.md"
            ) from error
        result.rolled_back = True
        if isinstance(error, KeyboardInterrupt):
            raise error
        raise RolledBackError(f"{reason}; {result.previous} serves again", error) from error

    def _verify(self, result: Result, expected: Expected, flipped: float) -> None:
        errors_since: float | None = None
        fewest, progressed = len(expected.files) + 1, flipped
        looked = self.clock()
        while True:
            try:
                seen = self.hosts.served(result.release)
            except LOST as error:
                # What is not seen is neither good nor bad.
                if self.clock() - looked > self.stall_seconds:
                    look = hints.ops(self.env, "status")
                    raise UnseenError(
                        f"nobody could see for {self.clock() - looked:.0f} s whether {result.release} serves: {error}; "
                        f"type: {look}"
                    ) from error
                self.sleep(_POLL_SECONDS)
                continue
            now = looked = self.clock()
            waiting, broken = judge(seen, result.release, expected)
            if result.visible_seconds is None and not (expected.affected & waiting.keys()):
                result.visible_seconds = now - flipped
            if not waiting and not broken:
                result.verified_seconds = now - flipped
                return
            if len(waiting) < fewest:
                fewest, progressed = len(waiting), now
            if waiting or not broken:
                errors_since = None
            elif errors_since is None:
                errors_since = now
            settled = errors_since is not None and now - errors_since >= _SETTLE_SECONDS
            if settled or now - progressed > self.stall_seconds:
                raise NotServedError(_complaint(result.release, waiting, broken, now - flipped))
            self.sleep(_POLL_SECONDS)


def judge(seen: Mapping[str, Any], release: str, expected: Expected) -> tuple[dict[str, str], dict[str, str]]:
    """Return the DAGs that are not yet served from the release, with why, and the files with an import error."""
    dags = {dag["dag_id"]: dag for dag in seen["dags"]}
    broken = {
        error["file"]: _last_line(error["error"]) for error in seen["import_errors"] if expected.has(error["file"])
    }
    waiting = {}
    if seen["bundle_release"] != release:
        # Of a release that was published without the gate, no more is known.
        waiting["of any file"] = f"still served from {seen['bundle_release'] or 'before releases'}"
    for dag_id, file in expected.files.items():
        dag = dags.get(dag_id)
        # A file that cannot be imported has lost its DAGs: one reason is enough.
        if file in broken:
            continue
        if dag is None:
            waiting[dag_id] = "not in the database"
        elif dag["release"] != release:
            waiting[dag_id] = f"still served from {dag['release'] or 'before releases'}"
    return waiting, broken


def _complaint(release: str, waiting: Mapping[str, str], broken: Mapping[str, str], seconds: float) -> str:
    parts = [f"{file} cannot be imported: {error}" for file, error in sorted(broken.items())[:_SHOWN]]
    parts += [f"DAG {dag_id} is {why} after {seconds:.0f} s" for dag_id, why in sorted(waiting.items())[:_SHOWN]]
    more = len(waiting) + len(broken) - len(parts)
    return f"{release}: {'; '.join(parts)}{f'; and {more} more' if more > 0 else ''}"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")
