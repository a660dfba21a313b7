"""Where archives are kept: a directory of this host, or anything that fsspec reaches (`s3://bucket/prefix`).

Paths are relative to the store and use `/`. Whatever `write` and `publish` return from is durable, and whole or absent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_COPY_BYTES = 1 << 20


class Store(Protocol):
    """A place for archives."""

    url: str

    def read(self, path: str) -> bytes:
        """Return an object's bytes, read from where they are kept; raise FileNotFoundError or OSError."""

    def write(self, path: str, content: bytes) -> None:
        """Put an object there."""

    def staged(self, path: str) -> contextlib.AbstractContextManager[Path]:
        """Give a local file to write, to be published by the name `path`; it is gone afterwards if it was not."""

    def publish(self, staged: Path, path: str) -> None:
        """Make a staged file, which is closed by now, the object `path`."""

    def remove(self, path: str) -> None:
        """Remove an object, or everything below a directory; nothing happens if there is none."""

    def list(self, directory: str) -> Sequence[str]:
        """Paths of all objects below a directory, sorted."""

    def directories(self) -> Sequence[str]:
        """Names at the top of the store."""

    def location(self, path: str) -> str:
        """Return what DuckDB and pandas open it by."""


def open_store(url: str) -> Store:
    """Return the store of a directory's path, a file:// URL or an object store's URL (credentials by environment)."""
    if url.startswith("file://"):
        return Directory(Path(url.removeprefix("file://")))
    if "://" not in url:
        return Directory(Path(url))
    return ObjectStore(url)


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Raise OSError that names the store for whatever its library raises: botocore's and aiohttp's errors are not.

    FileNotFoundError stays what it is.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url}: {error}") from error
    except Exception as error:
        raise OSError(f"{url}: {type(error).__name__}: {' '.join(str(error).split())}") from error


class Directory:
    """A directory of this host."""

    def __init__(self, root: Path) -> None:
        """`root` is made when the first archive is written."""
        self.root = root.absolute()
        self.url = f"file://{self.root}"

    def read(self, path: str) -> bytes:
        """Read past the page cache, so that a verification sees what the disk has."""
        with (self.root / path).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return file.read()

    def write(self, path: str, content: bytes) -> None:
        """Replace by rename."""
        with self.staged(path) as staged:
            staged.write_bytes(content)
            self.publish(staged, path)

    @contextlib.contextmanager
    def staged(self, path: str) -> Iterator[Path]:
        """Beside where it will be, so that publishing is a rename."""
        target = self.root / path
        self._make(target.parent)
        staged = target.with_name(f".{target.name}.part")
        try:
            yield staged
        finally:
            staged.unlink(missing_ok=True)

    def publish(self, staged: Path, path: str) -> None:
        """Flush the file, rename it, flush the directory."""
        _flush(staged)
        target = self.root / path
        staged.rename(target)
        _flush(target.parent)

    def remove(self, path: str) -> None:
        """Remove a file or a tree."""
        target = self.root / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def list(self, directory: str) -> Sequence[str]:
        """Half-written files are not listed."""
        found = (path for path in (self.root / directory).rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.root)) for path in found if not path.name.startswith("."))

    def directories(self) -> Sequence[str]:
        """Names of the directories in it."""
        return sorted(path.name for path in self.root.iterdir() if path.is_dir()) if self.root.is_dir() else []

    def location(self, path: str) -> str:
        """Return the absolute path."""
        return str(self.root / path)

    def _make(self, directory: Path) -> None:
        """Make directories; a new one is durable only once its parent is flushed."""
        if directory.is_dir():
            return
        self._make(directory.parent)
        directory.mkdir(mode=0o750, exist_ok=True)
        _flush(directory.parent)


class ObjectStore:
    """A bucket, or whatever else fsspec knows; an object there is replaced whole by its nature."""

    def __init__(self, url: str, spool: Path | None = None) -> None:
        """Files are made in `spool` (the system's directory for temporary files), then uploaded."""
        import fsspec  # noqa: PLC0415 - hosts without an archive engine have none

        self.url = url.rstrip("/")
        self._spool = spool
        with reaching(self.url):
            filesystem, self._root = fsspec.core.url_to_fs(url)
        self._filesystem: Any = filesystem

    @property
    def filesystem(self) -> Any:
        """What fsspec reaches it by."""
        return self._filesystem

    def read(self, path: str) -> bytes:
        """Download it."""
        with reaching(self.url):
            content: bytes = self._filesystem.cat_file(self._path(path))
        return content

    def write(self, path: str, content: bytes) -> None:
        """Upload it."""
        with reaching(self.url):
            self._filesystem.pipe_file(self._path(path), content)
            self._filesystem.invalidate_cache()

    @contextlib.contextmanager
    def staged(self, path: str) -> Iterator[Path]:
        """In a directory of its own below the spool."""
        with tempfile.TemporaryDirectory(prefix="ops-archive-", dir=self._spool) as directory:
            yield Path(directory) / Path(path).name

    def publish(self, staged: Path, path: str) -> None:
        """Upload it."""
        with reaching(self.url):
            self._filesystem.put_file(str(staged), self._path(path))
            self._filesystem.invalidate_cache()

    def remove(self, path: str) -> None:
        """Remove an object or all below a prefix."""
        with contextlib.suppress(FileNotFoundError), reaching(self.url):
            self._filesystem.rm(self._path(path), recursive=True)
        self._filesystem.invalidate_cache()

    def list(self, directory: str) -> Sequence[str]:
        """Every object below the prefix."""
        prefix = self._root.rstrip("/") + "/"
        with reaching(self.url):
            return sorted(path.removeprefix(prefix) for path in self._filesystem.find(self._path(directory)))

    def directories(self) -> Sequence[str]:
        """Return the first parts of its prefixes."""
        try:
            with reaching(self.url):
                entries = self._filesystem.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        return sorted(Path(entry["name"]).name for entry in entries if entry["type"] == "directory")

    def location(self, path: str) -> str:
        """Return its URL."""
        return str(self._filesystem.unstrip_protocol(self._path(path)))

    def _path(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
