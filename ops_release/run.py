"""Runs a program for at most so many seconds."""

import subprocess
from collections.abc import Sequence


class ProbeError(Exception):
    """A probe got no answer; the text says why, in one line, and `status` the exit code if it ended by itself."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


def run(command: Sequence[str], *, timeout_seconds: float, stdin: str | None = None) -> str:
    """Return what `command` prints; raise ProbeError if it fails or takes longer.

    A program that hangs in the kernel (a dead NFS server) cannot be killed. It is abandoned, never waited for: that is
    why this is not subprocess.run.
    """
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        raise ProbeError(f"{command[0]}: {error.strerror}") from error
    try:
        stdout, stderr = process.communicate(stdin, timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise ProbeError(f"{command[0]}: no answer within {timeout_seconds:g} s") from None
    if process.returncode:
        reason = stderr.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise ProbeError(f"{command[0]}: {reason[0]}", process.returncode)
    return stdout
