"""How this host archives: role metadata_archive writes it to /etc/metadata-archive/archive.json."""

import importlib.util
import json
import os
import pwd
import sys
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


def use_libraries(directory: Path = LIBRARIES) -> None:
    """Make pyarrow, psycopg and their like importable; ops-agent itself is one file that carries none of them."""
    if importlib.util.find_spec("pyarrow") is None:
        # Last, so that nothing of it hides the standard library or ops_agent.
        sys.path.append(str(directory))


def become(user: str) -> None:
    """Give up root for `user`, so that the timer and `ops` write the same files and log in the same way.

    Raises KeyError if there is no such user; does nothing for a process that is not root.
    """
    if os.geteuid():
        return
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ |= {"HOME": entry.pw_dir, "USER": user, "LOGNAME": user}
    os.umask(0o027)
