"""Runs the gate on a host as a transient unit: no privilege, no network, no secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Half of a small host: beyond this the tree is at fault, not the limit.
_PROPERTIES = (
    "DynamicUser=yes",
    "PrivateNetwork=yes",
    "PrivateDevices=yes",
    "PrivateTmp=yes",
    "ProtectHome=yes",
    "ProtectProc=invisible",
    "ProtectSystem=strict",
    "NoNewPrivileges=yes",
    "RestrictSUIDSGID=yes",
    "CapabilityBoundingSet=",
    "InaccessiblePaths=-/etc/airflow -/etc/ops-agent -/srv/airflow -/var/lib/airflow",
    "CPUWeight=20",
    "IOWeight=20",
    "TasksMax=256",
    "MemoryMax=50%",
    "OOMPolicy=continue",
    "KillMode=control-group",
    "UMask=0077",
)


def command(words: Sequence[str], *, directory: Path, seconds: float) -> list[str]:
    """Return the systemd-run command that runs `words`; it reads `directory`, and ends after `seconds` in any case."""
    properties = [*_PROPERTIES, f"BindReadOnlyPaths={directory}", f"RuntimeMaxSec={seconds:g}"]
    options = [f"--property={text}" for text in properties]
    return ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--nice=10", *options, "--", *words]
