"""The releases on the share. The publisher host writes them, one process at a time; everybody reads."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ops_agent.dags import stream as archive
from ops_release import SHARE, ReleaseError, durable, signature
from ops_release.manifest import ID, NAME, Manifest, load, new_id, parse, refuse_id
from ops_release.share import linked, published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_REASONS = {
    errno.ENOSPC: "it is full",
    errno.EDQUOT: "its quota is used up",
    errno.EROFS: "it is mounted read-only",
    errno.EACCES: "it may not be written from here as this user",
    errno.EPERM: "it may not be written from here as this user",
    errno.ESTALE: "its server was replaced; mount it again",
}


@dataclass(frozen=True)
class Listed:
    """One release directory: its manifest if it has one, and why no host would take it if that is so."""

    id: str
    manifest: Manifest | None
    error: str = ""


class Store:
    """The share at `root`. Reading needs nothing; writing, what the publisher host's user may do."""

    def __init__(self, root: Path = SHARE, lock: Path | None = None, signers: Path = signature.SIGNERS) -> None:
        self.root = root
        self.signers = signers
        self.releases = root / "releases"
        self.staging = root / "staging"
        # On this host, not on the share: only this host publishes, and a lock on NFS may outlive its holder.
        self._lock = lock or Path(f"/run/lock/airfleet-releases{str(root).replace('/', '-')}")

    def current(self) -> str | None:
        """Return the id that `current` names, if it names one."""
        return linked(self.root, "current")

    def previous(self) -> str | None:
        """Return the id that `previous` names, if it names one."""
        return linked(self.root, "previous")

    def path(self, release_id: str) -> Path:
        """Return a release's directory; raise ReleaseError for what is no id."""
        return self.releases / refuse_id(release_id)

    def load(self, release_id: str) -> Manifest:
        """Read a release's manifest, whoever wrote it. Raises as `share.published` does."""
        return published(self.root, release_id)

    def text(self, release_id: str) -> str:
        """Return a manifest as it stands, to be signed."""
        self.load(release_id)
        return (self.path(release_id) / NAME).read_text(encoding="utf-8")

    def refusal(self, release_id: str) -> str:
        """Return why no host would take a release; empty if all would."""
        try:
            self._refuse_unsigned(release_id)
        except ReleaseError as error:
            return str(error)
        return ""

    def _refuse_unsigned(self, release_id: str) -> None:
        text, signed = self.text(release_id), signature.read(self.path(release_id))
        signature.refuse_unsigned(release_id, text, signed, self.signers)

    def ids(self) -> list[str]:
        """Return the ids of all releases, the newest first."""
        with suppress(FileNotFoundError):
            return sorted((path.name for path in self.releases.iterdir() if ID.fullmatch(path.name)), reverse=True)
        return []

    def all(self) -> list[Listed]:
        """Return all releases, the newest first."""
        found = []
        for release_id in self.ids():
            try:
                found.append(Listed(release_id, load(self.releases / release_id), self.refusal(release_id)))
            except ReleaseError as error:
                found.append(Listed(release_id, None, str(error)))
        return found

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one writer for the block, and say plainly why the share cannot be written."""
        with ExitStack() as held:
            try:
                got = held.enter_context(durable.locked(self._lock, wait=False))
            except OSError as error:
                raise ReleaseError(f"{self._lock} cannot be locked ({error.strerror}): remove it") from error
            if not got:
                raise ReleaseError("another process is publishing on this host; wait for it to end")
            try:
                self.releases.mkdir(mode=0o755, exist_ok=True)
                self.staging.mkdir(mode=0o755, exist_ok=True)
                yield
            except OSError as error:
                reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
                raise ReleaseError(f"the DAG share {self.root} cannot be written: {reason}") from error

    def publish(self, stream: IO[bytes], now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Manifest:
        """Make a release of a tar stream (see `archive`) and return it; nothing serves it before it is signed.

        Raises ReleaseError, and leaves nothing behind, if it cannot be written whole.
        """
        with self._staged() as work:
            return self._appear(work, self._described(archive.unpack(stream, work), now()))

    def sign(self, release_id: str, signed: str) -> None:
        """Put a signature beside a release's manifest; raise ReleaseError unless it is a trusted key's."""
        signature.refuse_unsigned(release_id, self.text(release_id), signed, self.signers)
        with self.writing():
            durable.replace_text(self.path(release_id) / signature.NAME, signed)
            durable.sync(self.path(release_id))

    def restore(self, text: str, signed: str, stream: IO[bytes]) -> None:
        """Put back, as it was, a release that the share has lost; raise ReleaseError if the stream is another's."""
        manifest = parse(text)
        with self._staged() as work:
            found = archive.unpack(stream, work)
            if (found.files, found.links) != (manifest.files, manifest.links):
                raise ReleaseError(f"the copy of release {manifest.id} is not what was published")
            if signed:
                durable.replace_text(work / signature.NAME, signed)
            self._appear(work, manifest, text)

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """Give a directory to write a release in; nothing is left of it afterwards."""
        with self.writing():
            # Whoever wrote these is dead: this process holds the lock.
            for leftover in self.staging.iterdir():
                durable.remove(leftover)
            work = self.staging / f"new-{os.getpid()}"
            try:
                work.mkdir(mode=0o755)
                yield work
            finally:
                with suppress(OSError):
                    durable.remove(work)

    def _appear(self, work: Path, manifest: Manifest, text: str = "") -> Manifest:
        durable.replace_text(work / NAME, text or manifest.to_json())
        durable.sync_directories(work)
        work.rename(self.releases / manifest.id)
        durable.sync(self.releases)
        return manifest

    def _described(self, found: archive.Unpacked, now: datetime) -> Manifest:
        header = dict(found.header)
        release_id = new_id(now, header.get("commit", ""), header["digest"])
        while (self.releases / release_id).exists():
            now += timedelta(seconds=1)
            release_id = new_id(now, header.get("commit", ""), header["digest"])
        created = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        refuse_id(release_id)
        return Manifest(
            id=release_id,
            created=created,
            parent=self.current(),
            files=dict(sorted(found.files.items())),
            links=dict(sorted(found.links.items())),
            **header,
        )

    def flip(self, release_id: str) -> dict[str, Any]:
        """Make a release the current one; return which was and which is, and whether anything changed.

        Raises ReleaseError for one that no host would take.
        """
        self._refuse_unsigned(release_id)
        with self.writing():
            old = self.current()
            if old == release_id:
                return {"release": release_id, "previous": self.previous(), "changed": False}
            # In this order: killed in between, `previous` and `current` name the same release, which both exist.
            if old is not None:
                durable.replace_link(self.root / "previous", f"releases/{old}")
            durable.replace_link(self.root / "current", f"releases/{release_id}")
        return {"release": release_id, "previous": old, "changed": True}

    def prune(self, keep: int, needed: Mapping[str, list[str]], *, dry_run: bool = False) -> dict[str, Any]:
        """Remove all but the `keep` newest releases; `needed` gives by id why a release must stay besides.

        With `dry_run` only say which.
        """
        with self.writing():
            reasons = self._reasons(keep, needed)
            removed = [release_id for release_id, why in reasons.items() if not why]
            for release_id in () if dry_run else removed:
                # Gone by one rename, so that nobody finds half of it.
                grave = self.staging / f"old-{release_id}"
                durable.remove(grave)
                (self.releases / release_id).rename(grave)
                durable.remove(grave)
        return {"removed": removed, "kept": [{"id": one, "reasons": why} for one, why in reasons.items() if why]}

    def _reasons(self, keep: int, needed: Mapping[str, list[str]]) -> dict[str, list[str]]:
        listed = self.all()
        reasons: dict[str, list[str]] = {one.id: [] for one in listed}
        for one in listed[:keep]:
            reasons[one.id].append(f"one of the {keep} newest")
        for name, link in (("current", self.current()), ("previous", self.previous())):
            if link in reasons:
                reasons[link].append(name)
        for release_id, why in needed.items():
            reasons.get(release_id, []).extend(why)
        return reasons
