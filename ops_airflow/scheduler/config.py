"""What a keeper is told: /etc/airflow/keeper.json, written by role airflow_scheduler."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ops_airflow.scheduler.protocol import Timing

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Config:
    """`database` holds libpq's parameters; its host must be an address, because looking up a name blocks.

    `readers` are the addresses of other machines that are told everything; the rest learn the state alone.
    """

    database: dict[str, Any]
    listen_address: str
    listen_port: int
    timing: Timing
    readers: tuple[str, ...] = ()


def load(path: Path) -> Config:
    """Read the file; raise OSError if it cannot be read, ValueError or KeyError naming what is wrong with it."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    known = {entry.name for entry in fields(Timing)}
    if unknown := set(raw.get("timing", {})) - known:
        raise ValueError(f"unknown timing {', '.join(sorted(unknown))}")
    timing = Timing(**{name: float(seconds) for name, seconds in raw.get("timing", {}).items()})
    if timing.ttl - timing.margin < 2 * timing.renew:
        raise ValueError(f"ttl {timing.ttl:g} s less margin {timing.margin:g} s leaves no time for a second renewal")
    readers = tuple(raw.get("readers", ()))
    return Config(dict(raw["database"]), raw["listen_address"], int(raw["listen_port"]), timing, readers)
