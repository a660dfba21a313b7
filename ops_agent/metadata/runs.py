"""Remembers how the last vacuum went: for `ops status`, and for Prometheus' textfile collector."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

DIRECTORY = Path("/var/lib/metadata-archive/state")
_STATE = "last.json"
_METRICS = "metrics.prom"


@dataclass(frozen=True)
class Run:
    """One vacuum that came to an end; times are seconds since the epoch. `error` is empty if it did what it should."""

    finished_at: float
    seconds: float
    rows: int = 0
    stopped_early: bool = False
    longest_transaction_seconds: float = 0
    error: str = ""


@dataclass(frozen=True)
class History:
    """The last run, the last good one, and what they add up to since the machine was set up."""

    last: Run
    succeeded_at: float | None = None
    runs: int = 0
    failures: int = 0
    rows: int = 0

    def after(self, run: Run) -> History:
        """Return the history with one more run."""
        return History(
            last=run,
            succeeded_at=self.succeeded_at if run.error else run.finished_at,
            runs=self.runs + 1,
            failures=self.failures + bool(run.error),
            rows=self.rows + run.rows,
        )


_Table = Mapping[str, tuple[str, Callable[[History], float]]]
_GAUGES: _Table = {
    "last_run_timestamp_seconds": ("When the last vacuum ended.", lambda history: history.last.finished_at),
    "last_success_timestamp_seconds": ("When the last good vacuum ended.", lambda history: history.succeeded_at or 0),
    "last_run_duration_seconds": ("How long the last vacuum took.", lambda history: history.last.seconds),
    "last_run_rows": ("Rows that the last vacuum moved out.", lambda history: history.last.rows),
    "last_run_stopped_early": (
        "Whether the last vacuum ran out of time.",
        lambda history: int(history.last.stopped_early),
    ),
    "last_run_longest_transaction_seconds": (
        "The longest transaction of the last vacuum.",
        lambda history: history.last.longest_transaction_seconds,
    ),
}
_COUNTERS: _Table = {
    "runs_total": ("Vacuums that ended, well or not.", lambda history: history.runs),
    "failures_total": ("Vacuums that failed.", lambda history: history.failures),
    "rows_total": ("Rows that vacuums moved out.", lambda history: history.rows),
}


def record(run: Run, directory: Path = DIRECTORY) -> None:
    """Add a run to the history and write both files, each whole or not at all."""
    previous = read(directory)
    history = previous.after(run) if previous else History(run).after(run)
    _replace(directory / _STATE, json.dumps(asdict(history)) + "\n")
    _replace(directory / _METRICS, metrics(history))


def read(directory: Path = DIRECTORY) -> History | None:
    """Return the history; None if nothing ran yet. A damaged file counts as none: it must not stop a vacuum."""
    try:
        raw = json.loads((directory / _STATE).read_text(encoding="utf-8"))
        return History(**raw | {"last": Run(**_known(raw["last"]))})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        return None


def probe(directory: Path = DIRECTORY) -> dict[str, Any]:
    """Return what `ops status` shows; all None on a machine where nothing ran yet."""
    history = read(directory)
    if not history:
        return {"age_seconds": None, "error": None, "rows": None, "stopped_early": None}
    succeeded = history.succeeded_at
    return {
        "age_seconds": None if succeeded is None else max(0, round(time.time() - succeeded)),
        "error": history.last.error or None,
        "rows": history.last.rows,
        "stopped_early": history.last.stopped_early,
    }


def metrics(history: History) -> str:
    """Return the history in Prometheus' text format."""
    lines = []
    for kind, table in (("gauge", _GAUGES), ("counter", _COUNTERS)):
        for name, (meaning, value) in table.items():
            full = f"metadata_archive_{name}"
            lines += [f"# HELP {full} {meaning}", f"# TYPE {full} {kind}", f"{full} {value(history):.15g}"]
    return "\n".join(lines) + "\n"


def _known(raw: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(Run)}
    return {name: value for name, value in raw.items() if name in names}


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    # Prometheus' collector is another user.
    partial.chmod(0o644)
    partial.replace(path)
