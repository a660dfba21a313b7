"""Asks the share, whose server may be away, for at most so many seconds."""

from __future__ import annotations

from pathlib import Path

from ops_release import ReleaseError
from ops_release.manifest import Manifest, load, refuse_id
from ops_release.run import ProbeError, run

ANSWER_SECONDS = 5.0


def release_of(target: Path) -> str:
    """Return the id of the release that a link's target names; raise ReleaseError if it names none."""
    if target.parent.name != "releases":
        raise ReleaseError(f"the link leads to {target}, which is no release")
    return refuse_id(target.name)


def linked(share: Path, name: str) -> str | None:
    """Return the id that a link of the share names, if it names one."""
    try:
        return release_of((share / name).readlink())
    except (OSError, ReleaseError):
        return None


def published(share: Path, release_id: str) -> Manifest:
    """Read a release's manifest; raise ReleaseError if there is no such release."""
    directory = share / "releases" / refuse_id(release_id)
    if not directory.is_dir():
        raise ReleaseError(f"there is no release {release_id} on the share; see `ops releases list --env ENV`")
    return load(directory)


def current_within(share: Path, seconds: float) -> str:
    """Return the id of the current release, or raise ReleaseError in at most so many seconds.

    A process of its own reads the link: a call into a share whose server is away does not return.
    """
    try:
        target = run(["readlink", "--verbose", "--", str(share / "current")], timeout_seconds=seconds)
    except ProbeError as error:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
        mounted = any(line.split()[1] == str(share) for line in mounts.splitlines())
        state = "" if mounted else ", where nothing is mounted"
        raise ReleaseError(f"no current release to be read from {share}{state} ({error})") from None
    return release_of(Path(target.removesuffix("\n")))


def refuse_silence(share: Path, seconds: float = ANSWER_SECONDS) -> None:
    """Raise ReleaseError if the share does not answer in time."""
    try:
        run(["stat", "--file-system", "--format=%T", "--", str(share)], timeout_seconds=seconds)
    except ProbeError as error:
        raise ReleaseError(f"the share {share} does not answer ({error}); see docs/runbooks/share-down.md") from None
