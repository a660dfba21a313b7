"""Asks the share, whose server may be away, for at most so many seconds."""

from __future__ import annotations

from pathlib import Path

from ops_release import GoneError, ReleaseError, signature
from ops_release.manifest import NAME, Manifest, load, refuse_id
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
    """Read a release's manifest, whoever wrote it; raise ReleaseError if there is no such release.

    GoneError if the current one is there: the share has not lost them all, this one was removed.
    """
    directory = share / "releases" / refuse_id(release_id)
    if not directory.is_dir():
        current = linked(share, "current")
        lost = current is None or not (share / "releases" / current).is_dir()
        kind = ReleaseError if lost else GoneError
        raise kind(f"there is no release {release_id} on the share; see `ops releases list --env ENV`")
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


def refusal_of_current(share: Path, signers: Path, seconds: float) -> str:
    """Return why this host would not take the current release; empty if it would, or if it cannot be read in time."""
    try:
        release_id = current_within(share, seconds)
        release = share / "releases" / release_id
        text = run(["cat", "--", str(release / NAME)], timeout_seconds=seconds)
    except (ProbeError, ReleaseError):
        return ""
    try:
        signed = run(["cat", "--", str(release / signature.NAME)], timeout_seconds=seconds)
    except ProbeError:
        signed = ""
    try:
        signature.refuse_unsigned(release_id, text, signed, signers, seconds)
    except signature.UnsignedError as error:
        return str(error)
    except ReleaseError:
        return ""
    return ""
