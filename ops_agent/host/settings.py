"""What this host is meant to run; role ops_agent writes it to /etc/ops-agent/agent.json."""

import json
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path("/etc/ops-agent")


@dataclass(frozen=True)
class Unit:
    """A systemd unit and the ActiveState it should be in; several names if the host may have any one of them."""

    names: tuple[str, ...]
    state: str


@dataclass(frozen=True)
class Settings:
    """One host's part in the fleet."""

    tier: str
    units: tuple[Unit, ...]
    probes: tuple[str, ...]
    share_path: str
    database: str
    database_port: int
    rabbitmq_url: str
    rabbitmq_vhost: str
    rabbitmq_password_file: Path
    queues: tuple[str, ...]


def load(directory: Path = DIRECTORY) -> Settings:
    """Read the settings; raise OSError if there are none, ValueError or KeyError if they are damaged."""
    raw = json.loads((directory / "agent.json").read_text(encoding="utf-8"))
    return Settings(
        tier=raw["tier"],
        units=tuple(Unit(tuple(unit["name"].split("|")), unit["state"]) for unit in raw["units"]),
        probes=tuple(raw["probes"]),
        share_path=raw["share_path"],
        database=raw["database"],
        database_port=int(raw["database_port"]),
        rabbitmq_url=raw["rabbitmq_url"],
        rabbitmq_vhost=raw["rabbitmq_vhost"],
        rabbitmq_password_file=directory / "rabbitmq_password",
        queues=tuple(raw["queues"]),
    )
