"""One operation at a time: a named lock on this host, held for as long as `ops` listens, and the audit line it leaves.

The lock is an flock, so the kernel frees it with the process that holds it; that process ends when its standard input
does, or has been silent for SILENCE_SECONDS: a killed `ops`, a lost control node and a cut line all free the lock.
"""

import fcntl
import json
import os
import selectors
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

RUN_DIRECTORY = Path("/run/ops-agent")
AUDIT_FILE = Path("/var/log/ops-agent/audit.jsonl")
SILENCE_SECONDS = 60
LOCKED = 5


def add(verbs: Any) -> None:
    """Add the verb."""
    verb = verbs.add_parser("operation", help="hold a lock of the fleet's for as long as standard input stays open")
    verb.add_argument("--lock", required=True, choices=("scheduler", "dags", "metadata"), help="what is being changed")
    verb.set_defaults(run=lambda arguments: hold(arguments.lock))


def hold(name: str, *, run_directory: Path = RUN_DIRECTORY, audit_file: Path = AUDIT_FILE) -> int:
    """Hold lock `name` until standard input ends; return 0, or 5 if another operation has it.

    Standard input is a line of JSON that says who asks (any keys, among them `verb`), then lines to stay alive, either
    empty or JSON to add to the audit line (`hosts`, `result`). Standard output is an event, `"held": true`, or
    `"held": false, "holder": {...}` with what the holder said of itself and `since`; then a line for each empty one
    (`answers`), by which the other side knows that it was heard and the lock is held on.
    """
    said = json.loads(sys.stdin.readline())
    run_directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (run_directory / f"{name}.lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say({"event": "lock", "held": False, "holder": _holder(lock)})
            return LOCKED
        entry = {"since": _now(), "lock": name} | said
        lock.truncate(0)
        lock.write(json.dumps(entry))
        lock.flush()
        _say({"event": "lock", "held": True, "answers": True})
        entry |= _listen(sys.stdin.fileno())
        _audit(audit_file, entry | {"until": _now()})
    return 0


def _listen(source: int) -> dict[str, Any]:
    """Read until the end or a long silence; return what was told, with `result` interrupted if none was."""
    told: dict[str, Any] = {"result": "interrupted"}
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        while selector.select(SILENCE_SECONDS) and (chunk := os.read(source, 65536)):
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                if line:
                    told |= json.loads(line)
                elif not _answered():
                    return told
    return told


def _answered() -> bool:
    try:
        _say({"event": "lock", "held": True})
    except OSError:
        # Nobody listens any more; what is written at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _holder(lock: IO[str]) -> dict[str, Any]:
    lock.seek(0)
    try:
        holder: dict[str, Any] = json.loads(lock.read())
    except ValueError:
        # It has taken the lock and not yet written its name.
        return {}
    return holder


def _audit(path: Path, entry: Mapping[str, Any]) -> None:
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        # In one write, so that the lines of two locks never mix.
        log.write(json.dumps(entry) + "\n")
        log.flush()
        os.fsync(log.fileno())


def _say(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
