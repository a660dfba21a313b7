"""What a release says of itself, and whether a directory is what its manifest says."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ops_release import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

FORMAT = 1
NAME = "manifest.json"
DAGS = "dags"
ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{7,40}")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class File:
    """One file's content and whether it may be executed."""

    sha256: str
    size: int
    executable: bool = False


@dataclass(frozen=True)
class Manifest:
    """One release. `commit` is empty for DAGs that are in no git repository; `created` is UTC in ISO 8601."""

    id: str
    created: str
    author: str
    message: str
    digest: str
    commit: str = ""
    dirty: bool = False
    parent: str | None = None
    source: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] | None = None
    files: dict[str, File] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    def summary(self) -> dict[str, Any]:
        """Return all but the lists of files, with their number and size."""
        raw = asdict(self)
        del raw["files"], raw["links"]
        report = raw.pop("validation")
        return {**raw, "validated": report is not None, "files": len(self.files), "bytes": self.size}


def parse(text: str) -> Manifest:
    """Read manifest.json; raise ReleaseError if it is not one."""
    try:
        raw = json.loads(text)
        version = raw.pop("format")
        if version != FORMAT:
            raise ReleaseError(f"manifest of format {version}, not {FORMAT}: it was written by another ops-agent")
        files = {name: File(**entry) for name, entry in raw.pop("files").items()}
        manifest = Manifest(**raw, files=files)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReleaseError(f"damaged manifest: {error!r}") from error
    for name in (*manifest.files, *manifest.links):
        refuse_name(name)
    return manifest


def load(release: Path) -> Manifest:
    """Read a release directory's manifest; raise ReleaseError if there is none or it is another release's."""
    try:
        manifest = parse((release / NAME).read_text(encoding="utf-8"))
    except OSError as error:
        raise ReleaseError(f"release {release.name} has no readable manifest ({error.strerror})") from error
    except ReleaseError as error:
        raise ReleaseError(f"release {release.name}: {error}") from error
    if manifest.id != release.name:
        raise ReleaseError(f"release {release.name} has the manifest of {manifest.id}")
    return manifest


def refuse_id(release_id: str) -> str:
    """Return the id; raise ReleaseError unless it has the form of one, which makes it safe as a file name."""
    if not ID.fullmatch(release_id):
        raise ReleaseError(f"{release_id!r} is no release id; they look like 20260102T030405Z-abc1234")
    return release_id


def new_id(now: datetime, commit: str, digest: str) -> str:
    """Return an id that sorts by time: of the commit, or of the content where there is none."""
    return f"{now:%Y%m%dT%H%M%SZ}-{(commit or digest)[:12]}"


def refuse_name(name: str) -> None:
    """Raise ReleaseError unless `name` is a relative path that stays inside, in UTF-8 and on one line."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or str(path) != name:
        raise ReleaseError(f"{name!r} is not a plain path inside the release")
    if not name.isprintable() or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise ReleaseError(f"{name!r} has characters that cannot be printed or are not UTF-8; rename the file")


def is_bytecode(name: str) -> bool:
    """Whether Python writes it by itself: never part of a release, and ignored in a copy."""
    return "__pycache__" in PurePosixPath(name).parts or name.endswith(".pyc")


def content_digest(files: dict[str, File], links: dict[str, str]) -> str:
    """Return the sha256 of `sha256  path` lines of all files by path, then of `target <- path` lines of all links.

    Two asterisks stand for the blanks of a file that may be executed. A release from before they did has another
    digest, which is only ever compared: what verifies a copy is each file's own entry.
    """
    lines = [f"{entry.sha256}{'**' if entry.executable else '  '}{name}\n" for name, entry in sorted(files.items())]
    lines += [f"{target} <- {name}\n" for name, target in sorted(links.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hash_file(path: Path) -> File:
    """Read one file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as source:
        executable = bool(os.fstat(source.fileno()).st_mode & stat.S_IXUSR)
        while block := source.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return File(digest.hexdigest(), size, executable)


def walk(tree: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield every file and link of a tree by its relative name; raises OSError where a directory cannot be read."""
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(tree / folder) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                name = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{name}/")
                else:
                    yield name, entry


def differences(release: Path, manifest: Manifest) -> list[str]:
    """Return what in a release directory is not as its manifest says, a line each; bytecode does not count."""
    tree = release / DAGS
    found: list[str] = []
    seen = set()
    for name, entry in walk(tree):
        if is_bytecode(name):
            continue
        seen.add(name)
        if entry.is_symlink():
            same = manifest.links.get(name) == str((tree / name).readlink())
        elif entry.is_file(follow_symlinks=False):
            same = manifest.files.get(name) == hash_file(tree / name)
        else:
            same = False
        if not same:
            found.append(f"{name} is not what was published")
    found += [f"{name} is missing" for name in sorted({*manifest.files, *manifest.links} - seen)]
    return found


def refuse_links(tree: Path, links: dict[str, str]) -> None:
    """Raise ReleaseError for a link that is absolute, leads out of the tree, or leads nowhere."""
    inside = Path(os.path.realpath(tree))
    for name, target in links.items():
        if PurePosixPath(target).is_absolute():
            raise ReleaseError(f"{name} is a symlink to the absolute path {target}; link to files of the release only")
        try:
            found = (tree / name).resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise ReleaseError(f"{name} is a symlink to {target}, which leads nowhere") from error
        if not found.is_relative_to(inside):
            raise ReleaseError(f"{name} is a symlink to {target}, which leads out of the release")
