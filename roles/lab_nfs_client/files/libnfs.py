"""The calls of libnfs 5 that a file system over NFSv4 needs, by ctypes.

Every function is `nfs_<name>` of nfsc/libnfs.h; those that return a number return zero or more for success and
the negative errno otherwise.
"""

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_long, c_uint64, c_void_p

_TIMES = ("atime", "mtime", "ctime", "atime_ns", "mtime_ns", "ctime_ns")
_ATTRIBUTES = ("dev", "ino", "mode", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks", *_TIMES, "used")
_FIGURES = ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "fsid", "flag", "namemax")


class Stat(ctypes.Structure):
    """struct nfs_stat_64."""

    _fields_ = tuple((name, c_uint64) for name in _ATTRIBUTES)


class Statvfs(ctypes.Structure):
    """struct nfs_statvfs_64."""

    _fields_ = tuple((f"f_{name}", c_uint64) for name in _FIGURES)


class Timeval(ctypes.Structure):
    """struct timeval."""

    _fields_ = (("seconds", c_long), ("microseconds", c_long))


class DirectoryEntry(ctypes.Structure):
    """The head of struct nfsdirent: the rest is never read."""

    _fields_ = (("next", c_void_p), ("name", c_char_p))


_CONTEXT_CALLS: dict[str, tuple[object, ...]] = {
    "set_version": (c_int,),
    "mount": (c_char_p, c_char_p),
    "lstat64": (c_char_p, POINTER(Stat)),
    "statvfs64": (c_char_p, POINTER(Statvfs)),
    "open2": (c_char_p, c_int, c_int, POINTER(c_void_p)),
    "close": (c_void_p,),
    "pread": (c_void_p, c_uint64, c_uint64, c_void_p),
    "pwrite": (c_void_p, c_uint64, c_uint64, c_char_p),
    "fsync": (c_void_p,),
    "truncate": (c_char_p, c_uint64),
    "ftruncate": (c_void_p, c_uint64),
    "mkdir2": (c_char_p, c_int),
    "rmdir": (c_char_p,),
    "unlink": (c_char_p,),
    "opendir": (c_char_p, POINTER(c_void_p)),
    "readlink2": (c_char_p, POINTER(c_void_p)),
    "chmod": (c_char_p, c_int),
    "chown": (c_char_p, c_int, c_int),
    "lutimes": (c_char_p, Timeval * 2),
    "symlink": (c_char_p, c_char_p),
    "rename": (c_char_p, c_char_p),
}
_OTHER_CALLS: dict[str, tuple[object, tuple[object, ...]]] = {
    "init_context": (c_void_p, ()),
    "destroy_context": (None, (c_void_p,)),
    "get_error": (c_char_p, (c_void_p,)),
    "umask": (c_int, (c_void_p, c_int)),
    "set_dircache": (None, (c_void_p, c_int)),
    "set_timeout": (None, (c_void_p, c_int)),
    "set_autoreconnect": (None, (c_void_p, c_int)),
    "set_uid": (None, (c_void_p, c_int)),
    "set_gid": (None, (c_void_p, c_int)),
    "readdir": (POINTER(DirectoryEntry), (c_void_p, c_void_p)),
    "closedir": (None, (c_void_p, c_void_p)),
}


def load() -> ctypes.CDLL:
    """Load libnfs and declare what is used of it; raises OSError where the library is missing."""
    library = ctypes.CDLL("libnfs.so.14")
    calls = {name: (c_int, (c_void_p, *arguments)) for name, arguments in _CONTEXT_CALLS.items()}
    for name, (result, arguments) in {**_OTHER_CALLS, **calls}.items():
        function = getattr(library, f"nfs_{name}")
        function.restype, function.argtypes = result, arguments
    return library


LIBRARY = load()
LIBC = ctypes.CDLL(None)
LIBC.free.argtypes = (c_void_p,)
_LIBFUSE = ctypes.CDLL("libfuse.so.2")


def caller_interrupted() -> bool:
    """Whether the process behind the FUSE request that this thread serves has been sent a signal."""
    return bool(_LIBFUSE.fuse_interrupted())
