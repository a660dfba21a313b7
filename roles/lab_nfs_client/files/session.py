"""A session with an NFSv4 server that outlives the server's restarts."""

import ctypes
import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import fusepy
import libnfs
from libnfs import LIBRARY

log = logging.getLogger(__name__)

NFS_PORT = 2049
RETRY_SECONDS = 0.5
# libnfs reports a lost session, a dead connection and a protocol error it has no number for as one of these; its
# error text may be an older one, so the number decides. A server that is up and still answers so is believed in the
# end: then the error is real.
SESSION_LOST = {
    errno.EIO, errno.EFAULT, errno.EINTR, errno.EAGAIN, errno.ERANGE,
    errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT,
}  # fmt: skip
REBUILDS_BELIEVED = 5


@dataclass(frozen=True)
class Options:
    """How long to wait: a hard mount waits for its server for ever, a soft one `give_up_seconds`."""

    timeout_seconds: int = 10
    give_up_seconds: float | None = None


@dataclass
class OpenFile:
    """An open file: what it takes to open it again in a session that came later."""

    path: bytes
    flags: int
    mode: int = 0
    handle: int = 0
    generation: int = 0


@dataclass
class Session:
    """One connection, one call at a time: libnfs contexts are not thread-safe."""

    server: str
    export: str
    options: Options
    lock: threading.Lock = field(default_factory=threading.Lock)
    context: int | None = None
    generation: int = 0

    def connect(self) -> None:
        """Mount the export; raises OSError if the server does not give it."""
        # libnfs would wait for an unreachable server as long as the kernel's TCP does: two minutes.
        socket.create_connection((self.server, NFS_PORT), self.options.timeout_seconds).close()
        context = LIBRARY.nfs_init_context()
        LIBRARY.nfs_set_version(context, 4)
        LIBRARY.nfs_umask(context, 0)
        LIBRARY.nfs_set_dircache(context, 0)
        LIBRARY.nfs_set_autoreconnect(context, 0)
        LIBRARY.nfs_set_timeout(context, self.options.timeout_seconds * 1000)
        if LIBRARY.nfs_mount(context, self.server.encode(), self.export.encode()):
            reason = (LIBRARY.nfs_get_error(context) or b"unknown error").decode()
            LIBRARY.nfs_destroy_context(context)
            raise OSError(errno.EIO, reason)
        self.context, self.generation = context, self.generation + 1
        log.info("session %d with %s:%s", self.generation, self.server, self.export)

    def disconnect(self) -> None:
        """Forget the connection; the next call makes a new one."""
        if self.context is not None:
            LIBRARY.nfs_destroy_context(self.context)
            self.context = None

    def call(self, operation: Callable[[int], int]) -> int:
        """Run `operation(context)` as the calling user until it has an answer; raises OSError with the server's.

        The operation runs with the session to itself and may be several calls. A lost session is
        rebuilt and the operation repeated; a signal to the caller ends the wait with EINTR.
        """
        uid, gid, _ = fusepy.fuse_get_context()
        give_up = self.options.give_up_seconds
        deadline = None if give_up is None else time.monotonic() + give_up
        rebuilds = 0
        while True:
            with self.lock:
                result, reachable = self._attempt(operation, uid, gid)
            if result >= 0:
                return result
            rebuilds += reachable
            if -result not in SESSION_LOST or rebuilds > REBUILDS_BELIEVED:
                raise OSError(-result, os.strerror(-result))
            if deadline is not None and time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            if libnfs.caller_interrupted():
                raise OSError(errno.EINTR, os.strerror(errno.EINTR))
            time.sleep(RETRY_SECONDS)

    def _attempt(self, operation: Callable[[int], int], uid: int, gid: int) -> tuple[int, bool]:
        """Answer (result, whether it speaks against the operation rather than for a server that is away)."""
        if self.context is None:
            try:
                self.connect()
            except OSError as error:
                log.warning("%s:%s does not answer: %s", self.server, self.export, error)
                return -errno.EAGAIN, False
        context = self.context
        assert context is not None  # noqa: S101 - connect() raises otherwise; said for the type checker
        LIBRARY.nfs_set_uid(context, uid)
        LIBRARY.nfs_set_gid(context, gid)
        result = operation(context)
        if result >= 0:
            return result, False
        reason = (LIBRARY.nfs_get_error(context) or b"").decode()
        if result == -errno.EINVAL and "BAD_STATEID" in reason:
            result = -errno.EIO
        if -result in SESSION_LOST:
            if "GRACE" in reason or "DELAY" in reason:
                return -errno.EAGAIN, False
            log.warning("session %d lost: errno %d, %s", self.generation, -result, reason)
            self.disconnect()
        return result, True

    def open(self, file: OpenFile) -> None:
        """Open or create `file` as its path, flags and mode say."""
        self.call(lambda context: self._open(context, file, file.flags))

    def call_with(self, file: OpenFile, operation: Callable[[int, int], int]) -> int:
        """Run `operation(context, handle)` on an open file, opened anew where its session is gone."""

        def on_file(context: int) -> int:
            if file.generation != self.generation:
                result = self._open(context, file, file.flags & os.O_ACCMODE)
                if result < 0:
                    return -errno.ESTALE if result == -errno.ENOENT else result
            return operation(context, file.handle)

        return self.call(on_file)

    def _open(self, context: int, file: OpenFile, flags: int) -> int:
        handle = ctypes.c_void_p()
        result = int(LIBRARY.nfs_open2(context, file.path, flags, file.mode, ctypes.byref(handle)))
        if result >= 0:
            file.handle, file.generation = handle.value or 0, self.generation
        return result

    def close(self, file: OpenFile) -> None:
        """Close a file; a server that is away has forgotten it anyway."""
        with self.lock:
            if self.context is not None and file.generation == self.generation:
                LIBRARY.nfs_close(self.context, file.handle)
