"""Runs that were restored on purpose: the next vacuum must not take them away again at once."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_FILE = "holds.json"


def held(directory: Path, now: float | None = None) -> list[int]:
    """Return the ids (dag_run.id) of the runs that are to stay; raises ValueError if the file is damaged.

    Damaged is not empty: a vacuum that cannot tell what to keep must stop.
    """
    now = time.time() if now is None else now
    return sorted({run for hold in _read(directory) if hold["until"] > now for run in hold["runs"]})


def hold(directory: Path, runs: Iterable[int], *, seconds: float, now: float | None = None) -> None:
    """Keep `runs` for so long, and forget the holds that are over."""
    now = time.time() if now is None else now
    wanted = sorted(runs)
    if not wanted:
        return
    holds = [each for each in _read(directory) if each["until"] > now]
    partial = directory / f".{_FILE}.{os.getpid()}"
    partial.write_text(json.dumps([*holds, {"until": now + seconds, "runs": wanted}]) + "\n", encoding="utf-8")
    partial.replace(directory / _FILE)


def _read(directory: Path) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads((directory / _FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return found
