"""The tar stream in which a release reaches the publisher.

Its first member is `release.json`; all others lie below `dags/`: files, directories and symlinks, nothing else.
`release.json` has the keys `author`, `message`, `digest` (manifest.content_digest of what follows: a stream that was
cut off never passes for a whole one) and may have `commit`, `dirty`, `source` and `validation`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from ops_release import ReleaseError
from ops_release.manifest import DAGS, File, content_digest, hash_file, is_bytecode, refuse_links, refuse_name, walk

HEADER = "release.json"
_REQUIRED: dict[str, type] = {"author": str, "message": str, "digest": str}
_OPTIONAL: dict[str, type | tuple[type, ...]] = {
    "commit": str,
    "dirty": bool,
    "source": dict,
    "validation": (dict, type(None)),
}
_HEADER_LIMIT = 64 << 20
_AT_ONCE = 16
_PENDING = 64


@dataclass
class Unpacked:
    """What the stream held."""

    header: dict[str, Any]
    files: dict[str, File] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)


def contents(tree: Path) -> tuple[dict[str, File], dict[str, str]]:
    """Return the files and the links of a directory, without bytecode and version control.

    Raises ReleaseError for anything else in it.
    """
    names = [(name, entry) for name, entry in walk(tree) if not is_bytecode(name) and ".git" not in Path(name).parts]
    links = {name: str((tree / name).readlink()) for name, entry in names if entry.is_symlink()}
    files = {name: hash_file(tree / name) for name, entry in names if entry.is_file(follow_symlinks=False)}
    if odd := [name for name, _ in names if name not in files and name not in links]:
        raise ReleaseError(f"{odd[0]} is neither a file nor a symlink")
    return files, links


def pack(tree: Path, header: dict[str, Any], sink: IO[bytes]) -> None:
    """Write a directory as such a stream, without bytecode and version control.

    `digest` is added to the header where it is missing. A file that changes meanwhile, or a tree of another digest, is
    found out by whoever unpacks.
    """
    files, links = contents(tree)
    text = json.dumps({"digest": content_digest(files, links), **header}).encode()
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(_member(HEADER, len(text)), io.BytesIO(text))
        for name, file in files.items():
            with (tree / name).open("rb") as source:
                archive.addfile(_member(f"{DAGS}/{name}", file.size, executable=file.executable), source)
        for name, target in links.items():
            member = _member(f"{DAGS}/{name}", 0)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)


def _member(name: str, size: int, *, executable: bool = False) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o755 if executable else 0o644
    return member


def unpack(stream: IO[bytes], release: Path) -> Unpacked:
    """Write the stream's files below `release`/dags; raise ReleaseError for anything that may not be in a release.

    Every file is on disk then; directories are not. Symlinks are made after all files, so that none is written through.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            return _unpack(archive, release)
    except (tarfile.TarError, EOFError) as error:
        raise ReleaseError(f"the stream is not a whole tar archive ({error})") from error


def _unpack(archive: tarfile.TarFile, release: Path) -> Unpacked:
    tree = release / DAGS
    found = Unpacked(_header(archive))
    with _Writer(tree) as writer:
        while member := archive.next():
            name = _name(member)
            if name is None:
                continue
            _refuse_collision(name, found)
            if member.issym():
                found.links[name] = member.linkname
            elif member.isreg():
                found.files[name] = writer.write(archive, member, name)
            else:
                raise ReleaseError(f"{name} is neither a file nor a symlink (hard links count as neither)")
    for name, target in found.links.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(target)
    refuse_links(tree, found.links)
    _refuse_damage(found)
    return found


def _name(member: tarfile.TarInfo) -> str | None:
    """Return a member's path below dags/, None for what a release does without; raise ReleaseError for others."""
    name = member.name.removeprefix("./").rstrip("/")
    if name == DAGS or member.isdir() or is_bytecode(name):
        return None
    if not name.startswith(f"{DAGS}/"):
        raise ReleaseError(f"{member.name!r} is neither {HEADER} nor below {DAGS}/")
    name = name.removeprefix(f"{DAGS}/")
    refuse_name(name)
    return name


def _header(archive: tarfile.TarFile) -> dict[str, Any]:
    member = archive.next()
    content = archive.extractfile(member) if member and member.name.removeprefix("./") == HEADER else None
    if content is None:
        raise ReleaseError(f"the stream does not begin with {HEADER}")
    try:
        header = json.loads(content.read(_HEADER_LIMIT))
        wrong = [key for key, kind in _REQUIRED.items() if not isinstance(header[key], kind)]
        wrong += [key for key, kind in _OPTIONAL.items() if key in header and not isinstance(header[key], kind)]
        wrong += sorted(header.keys() - _REQUIRED.keys() - _OPTIONAL.keys())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReleaseError(f"{HEADER} is damaged: {error!r}") from error
    if wrong:
        raise ReleaseError(f"{HEADER} has unusable {', '.join(wrong)}")
    return dict(header)


class _Writer:
    """Writes files, several at once: on NFS each waits for the server to create it, and again to have it on disk."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._folders: set[Path] = set()
        self._pool = ThreadPoolExecutor(_AT_ONCE)
        self._written: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._tree.mkdir(mode=0o755)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for one in self._written:
                one.result()

    def write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> File:
        source = archive.extractfile(member)
        if source is None:
            raise ReleaseError(f"{name} has no content")
        content = source.read()
        target, executable = self._tree / name, bool(member.mode & 0o100)
        if target.parent not in self._folders:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(target.parent)
        if len(self._written) >= _PENDING:
            # Otherwise a big release would wait in memory for a slow share.
            self._written[-_PENDING].result()
        self._written.append(self._pool.submit(_store, target, content, 0o755 if executable else 0o644))
        return File(hashlib.sha256(content).hexdigest(), len(content), executable)


def _store(target: Path, content: bytes, mode: int) -> None:
    # The umask is the caller's: ops-agent sets it so that Airflow's user may read what is published.
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(out, "wb") as sink:
        sink.write(content)
        sink.flush()
        os.fsync(out)


def _refuse_collision(name: str, found: Unpacked) -> None:
    """Raise ReleaseError if a path is in the stream twice, or is a directory for another."""
    if name in found.files or name in found.links:
        raise ReleaseError(f"{name} is in the stream twice")
    above = [str(path) for path in PurePosixPath(name).parents[:-1]]
    for path in (name, *above):
        if (path == name and path in found.folders) or (path != name and (path in found.files or path in found.links)):
            kind = "symlink" if path in found.links else "file"
            raise ReleaseError(f"{path} is both a {kind} and a directory")
    found.folders.update(above)


def _refuse_damage(found: Unpacked) -> None:
    if not found.files:
        raise ReleaseError("there is not a single file in it; an empty release would remove every DAG")
    if content_digest(found.files, found.links) != found.header["digest"]:
        raise ReleaseError("what arrived is not what was sent (it was cut off, or a file changed meanwhile): try again")
