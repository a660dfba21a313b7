"""An NFSv4 export as a FUSE file system. Permissions are checked by the kernel here and by the server there."""

import ctypes
import itertools
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import fusepy
from libnfs import LIBC, LIBRARY, Stat, Statvfs, Timeval
from session import OpenFile, Session

NANOSECONDS = 10**9


@dataclass
class Share(fusepy.Operations):  # type: ignore[misc] # fusepy is untyped
    """FUSE operations by NFS calls; a failed call's OSError becomes the caller's errno."""

    session: Session
    use_ns = True
    files: dict[int, OpenFile] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    # What fusepy's base class pretends to have: without them the kernel answers for itself.
    getxattr = listxattr = setxattr = removexattr = mknod = link = access = opendir = releasedir = fsyncdir = None
    flush = None

    def open(self, path: str, flags: int) -> int:
        """Open an existing file."""
        return self._open(OpenFile(_bytes(path), flags & (os.O_ACCMODE | os.O_TRUNC)))

    def create(self, path: str, mode: int) -> int:
        """Create a file and open it."""
        # fusepy keeps O_EXCL to itself, but the kernel has looked the name up and not found it.
        number = self._open(OpenFile(_bytes(path), os.O_RDWR | os.O_CREAT, stat.S_IMODE(mode)))
        # libnfs 5.0.2 loses the mode on its way and the server makes it 0600.
        self.chmod(path, mode)
        return number

    def _open(self, file: OpenFile) -> int:
        self.session.open(file)
        number = next(self.numbers)
        self.files[number] = file
        return number

    def release(self, _path: str, number: int) -> None:
        """Close a file."""
        self.session.close(self.files.pop(number))

    def read(self, _path: str, size: int, offset: int, number: int) -> bytes:
        """Read up to `size` bytes."""
        buffer = ctypes.create_string_buffer(size)
        length = self.session.call_with(
            self.files[number], lambda nfs, file: LIBRARY.nfs_pread(nfs, file, offset, size, buffer)
        )
        return buffer.raw[:length]

    def write(self, _path: str, data: bytes, offset: int, number: int) -> int:
        """Write and answer how much was written."""
        return self.session.call_with(
            self.files[number], lambda nfs, file: LIBRARY.nfs_pwrite(nfs, file, offset, len(data), data)
        )

    def fsync(self, _path: str, _datasync: int, number: int) -> None:
        """Have the server put a file on its disk."""
        self.session.call_with(self.files[number], LIBRARY.nfs_fsync)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        """Set a file's length."""
        if fh is None:
            self.session.call(lambda nfs: LIBRARY.nfs_truncate(nfs, _bytes(path), length))
        else:
            self.session.call_with(self.files[fh], lambda nfs, file: LIBRARY.nfs_ftruncate(nfs, file, length))

    def getattr(self, path: str, _fh: int | None = None) -> dict[str, int]:
        """Answer a file's attributes, times in nanoseconds."""
        attributes = Stat()
        self.session.call(lambda nfs: LIBRARY.nfs_lstat64(nfs, _bytes(path), ctypes.byref(attributes)))
        found = {f"st_{name}": getattr(attributes, name) for name in ("mode", "ino", "nlink", "uid", "gid", "size")}
        found["st_blocks"] = (attributes.used + 511) // 512
        for name in ("atime", "mtime", "ctime"):
            found[f"st_{name}"] = getattr(attributes, name) * NANOSECONDS + getattr(attributes, f"{name}_ns")
        return found

    def readdir(self, path: str, _fh: int) -> list[str]:
        """List a directory."""
        names = {".", ".."}

        def list_names(nfs: int) -> int:
            directory = ctypes.c_void_p()
            result = int(LIBRARY.nfs_opendir(nfs, _bytes(path), ctypes.byref(directory)))
            if result >= 0:
                while entry := LIBRARY.nfs_readdir(nfs, directory):
                    names.add(os.fsdecode(entry.contents.name))
                LIBRARY.nfs_closedir(nfs, directory)
            return result

        self.session.call(list_names)
        return sorted(names)

    def readlink(self, path: str) -> str:
        """Answer where a symbolic link leads."""
        target = ctypes.c_void_p()
        self.session.call(lambda nfs: LIBRARY.nfs_readlink2(nfs, _bytes(path), ctypes.byref(target)))
        try:
            return os.fsdecode(ctypes.string_at(target.value or 0))
        finally:
            LIBC.free(target)

    def symlink(self, target: str, source: str) -> None:
        """Make `target` a symbolic link to `source` (fusepy's names)."""
        self.session.call(lambda nfs: LIBRARY.nfs_symlink(nfs, _bytes(source), _bytes(target)))

    def rename(self, old: str, new: str) -> None:
        """Rename, and let open files follow, since a rebuilt session opens them by path."""
        before, after = _bytes(old), _bytes(new)
        self.session.call(lambda nfs: LIBRARY.nfs_rename(nfs, before, after))
        for file in list(self.files.values()):
            if file.path == before or file.path.startswith(before + b"/"):
                file.path = after + file.path[len(before) :]

    def mkdir(self, path: str, mode: int) -> None:
        """Make a directory."""
        self.session.call(lambda nfs: LIBRARY.nfs_mkdir2(nfs, _bytes(path), stat.S_IMODE(mode)))

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        self.session.call(lambda nfs: LIBRARY.nfs_rmdir(nfs, _bytes(path)))

    def unlink(self, path: str) -> None:
        """Remove a file."""
        self.session.call(lambda nfs: LIBRARY.nfs_unlink(nfs, _bytes(path)))

    def chmod(self, path: str, mode: int) -> None:
        """Set a file's mode."""
        self.session.call(lambda nfs: LIBRARY.nfs_chmod(nfs, _bytes(path), stat.S_IMODE(mode)))

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Set a file's owner and group; -1 leaves one alone. A symbolic link keeps its own."""
        now = self.getattr(path)
        if stat.S_ISLNK(now["st_mode"]):
            return
        owner = now["st_uid"] if uid == -1 else uid
        group = now["st_gid"] if gid == -1 else gid
        # libnfs 5.0.2 drops the last component of chown's path over NFSv4, so it is given one to drop.
        target = _bytes(path.rstrip("/") + "/.")
        self.session.call(lambda nfs: LIBRARY.nfs_chown(nfs, target, owner, group))

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        """Set access and modification times, in nanoseconds; the server keeps microseconds."""
        moments = times or (time.time_ns(), time.time_ns())
        values = (Timeval * 2)(*(Timeval(ns // NANOSECONDS, ns % NANOSECONDS // 1000) for ns in moments))
        self.session.call(lambda nfs: LIBRARY.nfs_lutimes(nfs, _bytes(path), values))

    def statfs(self, path: str) -> dict[str, int]:
        """Answer the size of the server's file system and what is free."""
        figures = Statvfs()
        self.session.call(lambda nfs: LIBRARY.nfs_statvfs64(nfs, _bytes(path), ctypes.byref(figures)))
        return {name: getattr(figures, name) for name, *_ in Statvfs._fields_ if name not in {"f_fsid", "f_flag"}}


def _bytes(path: str) -> bytes:
    return os.fsencode(path)
