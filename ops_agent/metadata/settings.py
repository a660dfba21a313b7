"""How this host archives: role metadata_archive writes it to /etc/metadata-archive/archive.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FILE = Path("/etc/metadata-archive/archive.json")
LIBRARIES = Path("/opt/metadata-archive/current")


@dataclass(frozen=True)
class Settings:
    """Where the rows come from and go to.

    `destination` is a directory or an fsspec URL; `environment` holds what S3 needs (AWS_ACCESS_KEY_ID, …).
    """

    destination: str = "/var/lib/metadata-archive/archives"
    dsn: str = "host=/var/run/postgresql dbname=airflow user=archive"
    user: str = "archive"
    policy_file: Path = Path("/etc/metadata-archive/policy.yml")
    state_directory: Path = Path("/var/lib/metadata-archive/state")
    environment: Mapping[str, str] = field(default_factory=dict)


def load(file: Path = FILE) -> Settings:
    """Read the settings; raise OSError if there are none, ValueError or KeyError if they are damaged."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OSError(f"this host archives nothing: it has no {file}; converge role metadata_archive") from error
    return Settings(
        destination=raw["destination"],
        dsn=raw["dsn"],
        user=raw["user"],
        policy_file=Path(raw["policy_file"]),
        state_directory=Path(raw["state_directory"]),
        environment=raw["environment"],
    )
