"""Writes that survive a crash: whole trees synced, links and small files replaced by rename."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def sync_directories(tree: Path) -> None:
    """Return when every directory of a tree is on disk, from the deepest up; its files must be already."""
    for folder, _, _ in os.walk(tree, topdown=False, onerror=_raise):
        sync(Path(folder))


def sync_filesystem(path: Path) -> None:
    """Return when all of a path's filesystem is on disk: for many small files on a local one, quicker than each."""
    subprocess.run(["sync", "--file-system", str(path)], check=True, stdin=subprocess.DEVNULL)


def sync(path: Path) -> None:
    """Return when one file or directory is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove whatever is at `path`, if anything is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace_link(link: Path, target: str) -> None:
    """Point a symlink at `target`: whoever reads it finds the old target or the new one."""
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    sync(link.parent)


def replace_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as sink:
            sink.write(text)
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def locked(path: Path, *, kind: int = LOCK_EX, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file for the block; yield whether it was got. A killed process frees it."""
    handle = take_lock(path, kind=kind, wait=wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def take_lock(path: Path, *, kind: int, wait: bool) -> int | None:
    """Return a descriptor that holds the lock until it is closed, or None if another holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            flock(handle, kind if wait else kind | LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        # Whoever cleans up removes lock files; a lock on a removed one binds nobody.
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)


def _raise(error: OSError) -> None:
    raise error
