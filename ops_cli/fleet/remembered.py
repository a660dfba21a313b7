"""Remembers what an environment's files came to, until one of them changes.

Ansible takes over a second of a core to read an inventory, for an answer that is the same for weeks. Remembered are the
hosts and how to log in to them, never a host's other variables, among which are secrets. An inventory with a script or
a plugin in it may answer otherwise each time, so it is not remembered.
"""

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_PLUGIN = b"\nplugin:"


def key(directory: Path, home: Path) -> str | None:
    """Return a digest of all that Ansible reads for the inventory in `directory`, None if that is not files alone."""
    digest = hashlib.sha256(f"{sys.executable} {sys.version}".encode())
    for name in sorted(name for name in os.environ if name.startswith("ANSIBLE_")):
        digest.update(f"{name}={os.environ[name]}\0".encode())
    for path in [home / "ansible.cfg", home / "requirements.txt", *_files(directory)]:
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.parent == directory and (path.stat().st_mode & stat.S_IXUSR or _PLUGIN in b"\n" + content):
            return None
        digest.update(f"{path}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def recall(directory: Path, wanted: str) -> Any:
    """Return what was kept under the key `wanted`, None if there is nothing."""
    path = _place(directory)
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = path.stat()
        # What it says is logged in to: nobody else may have written it.
        if found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            kept = json.loads(path.read_text())
            return kept["answer"] if kept["key"] == wanted else None
    return None


def keep(directory: Path, wanted: str, answer: Any) -> None:
    """Keep `answer`; a home without room or permission costs time alone."""
    path = _place(directory)
    # Two at once write the same, each whole.
    new = path.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.write_text(json.dumps({"key": wanted, "answer": answer}))
        new.chmod(0o600)
        new.replace(path)


def _files(directory: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(directory, followlinks=True):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names))


def _place(directory: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return cache / "airfleet" / f"inventory-{hashlib.sha256(str(directory).encode()).hexdigest()[:16]}.json"
