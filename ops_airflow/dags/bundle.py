"""Airflow's view of DAG releases: a bundle whose versions are releases, read from this host's own copies.

A run in flight asks for the version it began on and gets that release, also long after another became current; the
dag-processor asks for none and follows `current`. Nothing here reads the share in Airflow's own process: a call into
a share whose server is away does not return.

A release that the share does not give now may be had later, and a task waits for it. One that was removed is gone for
good: its task fails at once, and says how to run it on the current release.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.dag_processing.bundles.base import BaseDagBundle, BundleVersion
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException

from ops_release import CACHE, GONE, SERVING, SHARE, GoneError, ReleaseError, durable
from ops_release.cache import Cache
from ops_release.manifest import DAGS
from ops_release.run import ProbeError, run
from ops_release.share import current_within
from ops_release.signature import SIGNERS

if TYPE_CHECKING:
    from ops_release.cache import Use

log = logging.getLogger(__name__)

# A dag-processor's loop stands still meanwhile, and its heartbeat must not be late.
_LINK_SECONDS = 2.0
_COPY_SECONDS = 20.0
# A task can wait: it has nothing to run otherwise.
_TASK_COPY_SECONDS = 60.0
_TASK_RETRY_SECONDS = 30


class ReleaseBundle(BaseDagBundle):  # type: ignore[misc]
    """Serves one release: the one it was made for, or, without a version, the current one at the last refresh."""

    supports_versioning = True

    def __init__(
        self, *, share: str = str(SHARE), cache: str = str(CACHE), signers: str = str(SIGNERS), **options: Any
    ) -> None:
        super().__init__(**options)
        self.share = Path(share)
        self.cache = Cache(Path(cache), Path(signers))
        self._serving: str | None = self.version
        self._use: Use | None = None
        self._since = datetime.now(UTC)
        self.problem = ""
        """Why the current release cannot be followed; empty if it can."""
        self.served_elsewhere: str | None = None
        """The release that the fleet's other dag-processor serves, to go over to it while this host has no share."""

    @property
    def path(self) -> Path:
        """The release's DAG folder; before `initialize` of an unpinned bundle, a directory that does not exist."""
        return (self.cache.path(self._serving) if self._serving else self.cache.root / "none") / DAGS

    def get_current_version(self) -> BundleVersion | None:
        """Return the release that `path` belongs to."""
        return BundleVersion(version=self._serving) if self._serving else None

    def initialize(self) -> None:
        """Have a copy of the release to serve, and hold it against the cleaner.

        With the copy there, a pinned bundle needs nothing but the local disk. A task whose release cannot be had now is
        rescheduled, which costs it no try; one whose release is gone for good fails without another. A dag-processor
        without any release raises, and Airflow retires nothing.
        """
        try:
            if self.version:
                self._hold(self.version, _TASK_COPY_SECONDS)
            else:
                self._follow()
        except GoneError as error:
            reason = (
                f"release {self.version}, on which this run began, was pruned from the share. "
                "To run it on the current one, clear it with `Run with latest bundle version` ticked"
            )
            log.error("%s (%s)", reason, error)  # noqa: TRY400 - one line
            _fail_task()
            raise AirflowFailException(reason) from error
        except ReleaseError as error:
            log.error("release %s cannot be had: %s", self.version or "current", error)  # noqa: TRY400 - one line
            # The task runner turns it into UP_FOR_RESCHEDULE; everything else of Airflow logs it and goes on.
            raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=_TASK_RETRY_SECONDS)) from error
        super().initialize()

    def refresh(self) -> None:
        """Go over to the current release if it can be had; keep the last one, and say why, if it cannot."""
        if self.version:
            raise RuntimeError(f"release {self.version} never changes; only an unpinned bundle is refreshed")
        self._follow()
        _gauge("dag_bundle.release_problem", 1 if self.problem else 0, self.name)
        state = {
            "release": self._serving,
            "since": self._since.isoformat(timespec="seconds"),
            "checked": datetime.now(UTC).isoformat(timespec="seconds"),
            "problem": self.problem,
            "pid": os.getpid(),
        }
        with suppress(OSError):
            durable.replace_text(self.cache.root / SERVING, json.dumps(state) + "\n")

    def _follow(self) -> None:
        """Serve the current release or, with `problem` saying why, another; raise ReleaseError if there is none."""
        try:
            wanted = current_within(self.share, _LINK_SECONDS)
            self._hold(wanted, _COPY_SECONDS)
        except ReleaseError as error:
            self.problem = str(error)
            self._fall_back(error)
            return
        self.problem, self.served_elsewhere = "", None
        try:
            self.cache.remember(wanted)
        except OSError as error:
            log.warning("release %s is served, but a restart would not know: %s", wanted, error)

    def _fall_back(self, error: ReleaseError) -> None:
        choice = (self.served_elsewhere, self._serving, self.cache.last_good())
        kept = next((one for one in choice if one and self.cache.has(one)), self._serving)
        if kept is None:
            raise error
        log.warning("serving release %s, because %s", kept, error)
        # A copy that somebody removed cannot be had back now; Airflow keeps what it has parsed.
        if self.cache.has(kept):
            self._hold(kept, _COPY_SECONDS)

    def _hold(self, release_id: str, seconds: float) -> None:
        if self._use and self._serving == release_id and self.cache.has(release_id):
            return
        try:
            use = self.cache.use(release_id)
            if use is None:
                self._copy(release_id, seconds)
                use = self.cache.use(release_id)
        except OSError as error:
            raise ReleaseError(f"the copies in {self.cache.root} cannot be used: {error}") from error
        if use is None:
            raise ReleaseError(f"the copy of release {release_id} vanished from {self.cache.root}")
        if self._serving != release_id:
            log.info("serving release %s instead of %s", release_id, self._serving)
            self._since = datetime.now(UTC)
        self._serving, self._use = release_id, use

    def _copy(self, release_id: str, seconds: float) -> None:
        # In a process of its own, which may hang with the share; it can be left behind, this one cannot.
        command = [sys.executable, "-m", "ops_release.warm", str(self.share), str(self.cache.root)]
        command += [str(self.cache.signers), release_id]
        try:
            run(command, timeout_seconds=seconds)
        except ProbeError as error:
            kind = GoneError if error.status == GONE else ReleaseError
            raise kind(f"release {release_id} could not be copied: {error}") from None


def _fail_task() -> None:
    """End this process, if it is a task's, so that the task has failed; Airflow 3.3 would retry what ends otherwise.

    The processes of callbacks have a line to a supervisor too, which knows no such message.
    """
    from airflow.sdk.execution_time import comms, task_runner  # noqa: PLC0415

    frame = inspect.currentframe()
    while frame and frame.f_code is not task_runner.parse.__code__:
        frame = frame.f_back
    if frame:
        task_runner.SUPERVISOR_COMMS.send(comms.TaskState(state="failed", end_date=datetime.now(UTC)))
        sys.exit(0)


def _gauge(name: str, value: float, bundle: str) -> None:
    from airflow._shared.observability.metrics import stats  # noqa: PLC0415

    stats.gauge(name, value, tags={"bundle_name": bundle})
