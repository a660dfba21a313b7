"""A host's own copies of releases: verified once when copied, then served without the share.

- `<cache>/<id>/`: a copy, moved here by rename after its manifest's signature and every digest were right
- `<cache>/last-good`: id of the release that was last served as the current one
- `<cache>/.use/<id>`: locked shared by every process that serves from the copy; its mtime is the last use
- `<cache>/.copy/<id>`: locked by whoever copies
"""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_SH
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops_release import CACHE, ReleaseError, durable, signature
from ops_release.manifest import (
    DAGS,
    ID,
    NAME,
    File,
    Manifest,
    differences,
    hash_file,
    load,
    parse,
    refuse_id,
    refuse_links,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# NFS answers many small files slowly one after another.
_AT_ONCE = 8
_NEW = ".new-"
# Releases whose copies are looked through for unchanged files.
_SEARCHED = 3


class Use:
    """Holds a copy against the cleaner for as long as this object, or a process forked from its owner, lives."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def close(self) -> None:
        """Let the cleaner have it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __del__(self) -> None:
        self.close()


class Cache:
    """The copies below one directory."""

    def __init__(self, root: Path = CACHE, signers: Path = signature.SIGNERS) -> None:
        self.root = root
        self.signers = signers

    def path(self, release_id: str) -> Path:
        """Return where a release's copy is, or would be."""
        return self.root / refuse_id(release_id)

    def has(self, release_id: str) -> bool:
        """Whether the copy is there; if it is, it is whole."""
        return (self.path(release_id) / NAME).is_file()

    def ids(self) -> list[str]:
        """Return the ids of all copies, the newest release first."""
        with suppress(FileNotFoundError):
            names = (path.name for path in self.root.iterdir() if ID.fullmatch(path.name))
            return sorted((name for name in names if self.has(name)), reverse=True)
        return []

    def load(self, release_id: str) -> Manifest:
        """Read a copy's manifest."""
        return load(self.path(release_id))

    def last_good(self) -> str | None:
        """Return the release that was last served as current, if its copy is still there."""
        with suppress(OSError, ReleaseError):
            name = (self.root / "last-good").read_text(encoding="utf-8").strip()
            if self.has(name):
                return name
        return None

    def remember(self, release_id: str) -> None:
        """Note that a release is served as the current one."""
        if self.last_good() != release_id:
            durable.replace_text(self.root / "last-good", f"{release_id}\n")

    def use(self, release_id: str) -> Use | None:
        """Hold a copy for as long as the result lives; None if there is no copy. Never touches the share."""
        lock = self._lock(".use", release_id)
        handle = durable.take_lock(lock, kind=LOCK_SH, wait=True)
        if handle is None or not self.has(release_id):
            if handle is not None:
                os.close(handle)
            return None
        with suppress(OSError):
            os.utime(lock)
        return Use(handle)

    def copy(self, share: Path, release_id: str, *, anew: bool = False) -> bool:
        """Copy a release from the share unless it is here, or also then; return whether it had to be copied.

        Raises ReleaseError, leaving no copy, if its manifest is not signed by a trusted key, or a file is missing,
        other than the manifest says, or too much for the disk. Calls from several processes at once make one copy; the
        others wait for it.
        """
        if self.has(release_id) and not anew:
            return False
        with durable.locked(self._lock(".copy", release_id)):
            if self.has(release_id) and not anew:
                return False
            work = self.root / f"{_NEW}{release_id}"
            try:
                durable.remove(work)
                work.mkdir(mode=0o750)
                self._copy(share / "releases" / release_id, work)
                durable.sync_filesystem(work)
                durable.remove(self.path(release_id))
                work.rename(self.path(release_id))
                durable.sync(self.root)
            except OSError as error:
                raise ReleaseError(f"release {release_id} cannot be copied to {self.root}: {error}") from error
            finally:
                with suppress(OSError):
                    durable.remove(work)
        return True

    def _copy(self, release: Path, work: Path) -> None:
        text, signed = (release / NAME).read_text(encoding="utf-8"), signature.read(release)
        # First of all: nothing that a stranger wrote is even parsed.
        signature.refuse_unsigned(release.name, text, signed, self.signers)
        (work / NAME).write_text(text, encoding="utf-8")
        (work / signature.NAME).write_text(signed, encoding="ascii")
        _copy_files(release, work, self._contents())

    def _contents(self) -> dict[str, Path]:
        """Return by sha256 where this host already has a content: most files of a release are the last one's."""
        found: dict[str, Path] = {}
        for release_id in self.ids()[:_SEARCHED]:
            with suppress(ReleaseError):
                found |= {
                    file.sha256: self.path(release_id) / DAGS / name
                    for name, file in self.load(release_id).files.items()
                }
        return found

    def verify(self, release_id: str) -> list[str]:
        """Return what of a copy is not as it was published, a line each.

        A copy from before signatures has none; it was verified when it was made.
        """
        release = self.path(release_id)
        if signed := signature.read(release):
            try:
                signature.refuse_unsigned(release_id, (release / NAME).read_text("utf-8"), signed, self.signers)
            except signature.UnsignedError:
                return [f"{NAME} is not what was signed"]
        try:
            manifest = self.load(release_id)
        except ReleaseError as error:
            return [str(error)]
        return differences(release, manifest)

    def clean(self, keep: Collection[str], unused_seconds: float) -> list[str]:
        """Remove copies that nobody uses, nobody used for so long, and `keep` does not name; return their ids."""
        kept = {*keep, self.last_good()}
        return [one for one in self.ids() if one not in kept and self._remove(one, time.time() - unused_seconds)]

    def _remove(self, release_id: str, used_before: float) -> bool:
        use, copy = self._lock(".use", release_id), self._lock(".copy", release_id)
        last_use = use.stat().st_mtime if use.exists() else self.path(release_id).stat().st_mtime
        if last_use > used_before:
            return False
        with durable.locked(copy, wait=False) as copying, durable.locked(use, kind=LOCK_EX, wait=False) as using:
            if not (copying and using):
                return False
            grave = self.root / f".old-{release_id}"
            durable.remove(grave)
            self.path(release_id).rename(grave)
            durable.remove(grave)
            use.unlink()
            copy.unlink()
        return True

    def _lock(self, kind: str, release_id: str) -> Path:
        directory = self.root / kind
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        return directory / refuse_id(release_id)

    def report(self) -> dict[str, Any]:
        """Return what is here."""
        return {"path": str(self.root), "last_good": self.last_good(), "releases": self.ids()}


def _copy_files(release: Path, work: Path, here: Mapping[str, Path]) -> None:
    manifest = parse((work / NAME).read_text(encoding="utf-8"))
    source, target = release / DAGS, work / DAGS
    target.mkdir(mode=0o750)
    for folder in sorted({Path(name).parent for name in (*manifest.files, *manifest.links)}):
        (target / folder).mkdir(mode=0o750, parents=True, exist_ok=True)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        jobs = [
            pool.submit(_copy_file, source / name, here.get(entry.sha256), target / name, entry)
            for name, entry in manifest.files.items()
        ]
        for job in jobs:
            job.result()
    for name, link in manifest.links.items():
        (target / name).symlink_to(link)
    refuse_links(target, manifest.links)


def _copy_file(source: Path, here: Path | None, target: Path, expected: File) -> None:
    # A copy on this host may be damaged, or be cleaned away meanwhile; the share's is then what counts.
    with suppress(OSError):
        if here and _copied(here, target, expected):
            return
    if not _copied(source, target, expected):
        raise ReleaseError(f"{source} on the share is not what was published; publish again, or roll back")


def _copied(source: Path, target: Path, expected: File) -> bool:
    shutil.copyfile(source, target, follow_symlinks=False)
    target.chmod(0o750 if expected.executable else 0o640)
    # Read back: what counts is what this host will serve.
    return hash_file(target) == expected
