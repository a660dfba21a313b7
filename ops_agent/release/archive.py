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
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ops_agent.release import ReleaseError
from ops_agent.release.manifest import (
    DAGS,
    File,
    content_digest,
    hash_file,
    is_bytecode,
    refuse_links,
    refuse_name,
    walk,
)

HEADER = "release.json"
_REQUIRED: dict[str, type] = {"author": str, "message": str, "digest": str}
_OPTIONAL: dict[str, type | tuple[type, ...]] = {
    "commit": str,
    "dirty": bool,
    "source": dict,
    "validation": (dict, type(None)),
}
_HEADER_LIMIT = 64 << 20
_BLOCK = 1 << 20


@dataclass
class Unpacked:
    """What the stream held."""

    header: dict[str, Any]
    files: dict[str, File] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


def pack(tree: Path, header: dict[str, Any], sink: IO[bytes]) -> None:
    """Write a directory as such a stream, without bytecode and version control; adds `digest` to the header.

    A file that changes meanwhile is found out by whoever unpacks.
    """
    names = [(name, entry) for name, entry in walk(tree) if not is_bytecode(name) and ".git" not in Path(name).parts]
    links = {name: str((tree / name).readlink()) for name, entry in names if entry.is_symlink()}
    files = {name: hash_file(tree / name) for name, entry in names if entry.is_file(follow_symlinks=False)}
    if odd := [name for name, _ in names if name not in files and name not in links]:
        raise ReleaseError(f"{odd[0]} is neither a file nor a symlink")
    text = json.dumps({**header, "digest": content_digest(files, links)}).encode()
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

    Symlinks are made after all files, so that no file is ever written through one.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            return _unpack(archive, release)
    except (tarfile.TarError, EOFError) as error:
        raise ReleaseError(f"the stream is not a whole tar archive ({error})") from error


def _unpack(archive: tarfile.TarFile, release: Path) -> Unpacked:
    tree = release / DAGS
    tree.mkdir(mode=0o755)
    found = Unpacked(_header(archive))
    while member := archive.next():
        name = member.name.removeprefix("./").rstrip("/")
        if name == DAGS or member.isdir() or is_bytecode(name):
            continue
        if not name.startswith(f"{DAGS}/"):
            raise ReleaseError(f"{member.name!r} is neither {HEADER} nor below {DAGS}/")
        name = name.removeprefix(f"{DAGS}/")
        refuse_name(name)
        if name in found.files or name in found.links:
            raise ReleaseError(f"{name} is in the stream twice")
        if member.issym():
            found.links[name] = member.linkname
        elif member.isreg():
            found.files[name] = _write(archive, member, tree / name)
        else:
            raise ReleaseError(f"{name} is neither a file nor a symlink (hard links count as neither)")
    _refuse_collisions(found)
    for name, target in found.links.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(target)
    refuse_links(tree, found.links)
    _refuse_damage(found)
    return found


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


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> File:
    source = archive.extractfile(member)
    if source is None:
        raise ReleaseError(f"{member.name} has no content")
    executable = bool(member.mode & 0o100)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    except (FileExistsError, NotADirectoryError) as error:
        raise ReleaseError(f"{member.name} is both a file and a directory") from error
    digest, size = hashlib.sha256(), 0
    with os.fdopen(out, "wb") as sink:
        # Whatever the umask or the share's default is: Airflow's user must read it.
        os.fchmod(sink.fileno(), 0o755 if executable else 0o644)
        while block := source.read(_BLOCK):
            digest.update(block)
            sink.write(block)
            size += len(block)
    return File(digest.hexdigest(), size, executable)


def _refuse_collisions(found: Unpacked) -> None:
    for name in found.links:
        if any(other.startswith(f"{name}/") for other in (*found.files, *found.links)):
            raise ReleaseError(f"{name} is both a symlink and a directory")


def _refuse_damage(found: Unpacked) -> None:
    if not found.files:
        raise ReleaseError("there is not a single file in it; an empty release would remove every DAG")
    if content_digest(found.files, found.links) != found.header["digest"]:
        raise ReleaseError("what arrived is not what was sent (it was cut off, or a file changed meanwhile): try again")
