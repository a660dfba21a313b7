"""Who types: locks, releases, archives and the audit line name the same person."""

import getpass
import os
import socket


def user() -> str:
    """Return the person's login; under sudo that of who called it."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


def machine() -> str:
    """Return the name of this machine."""
    return socket.gethostname()


def name() -> str:
    """Return who types, and where."""
    return f"{user()}@{machine()}"
