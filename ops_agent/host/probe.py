"""What any host can say about itself: units, versions, disks and the DAG share."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ops_agent.host.settings import Settings, Unit
from ops_release.run import ProbeError, run
from ops_release.share import refusal_of_current
from ops_release.signature import SIGNERS

_TIMEOUT_SECONDS = 2.0
# Four programs one after another, after one that may take longer, within the deadline of all probes.
_REFUSAL_SECONDS = 0.35
_PACKAGES = {
    "haproxy": "haproxy",
    "nfs-ganesha": "ganesha",
    "nfs-kernel-server": "nfsd",
    "pgbouncer": "pgbouncer",
    "rabbitmq-server": "rabbitmq",
}
_AIRFLOW_LINK = Path("/opt/airflow/current")
_LOCAL_FILESYSTEMS = frozenset({"btrfs", "ext4", "overlay", "xfs", "zfs"})


def units(wanted: Sequence[Unit]) -> list[dict[str, str]]:
    """Return the state of every wanted unit; one call of systemctl for all of them."""
    names = [name for unit in wanted for name in unit.names]
    if not names:
        return []
    shown = run(
        ["systemctl", "show", "--property=LoadState,ActiveState", "--", *names], timeout_seconds=_TIMEOUT_SECONDS
    )
    return states(wanted, shown)


def states(wanted: Sequence[Unit], shown: str) -> list[dict[str, str]]:
    """Read what `systemctl show` printed for all names of the wanted units, in their order."""
    blocks = iter(shown.strip().split("\n\n"))
    found = []
    for unit in wanted:
        properties = {name: dict(line.split("=", 1) for line in next(blocks).splitlines()) for name in unit.names}
        name = next((name for name in unit.names if properties[name]["LoadState"] != "not-found"), unit.names[0])
        load, active = properties[name]["LoadState"], properties[name]["ActiveState"]
        found.append({"name": name, "state": active if load == "loaded" else load, "expected": unit.state})
    return found


def failed_units() -> list[str]:
    """Return the names of all failed units of the host, the fleet's or not."""
    listing = run(
        ["systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager"],
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    return [line.split()[0] for line in listing.splitlines() if line.strip()]


def versions() -> dict[str, str]:
    """Return the versions of what is installed here: Debian, the fleet's packages, the Airflow environment."""
    # All packages: asked for one that is not there, dpkg-query fails.
    listing = run(
        ["dpkg-query", "--show", "--showformat=${Package} ${Version} ${db:Status-Status}\n"],
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    found = {"debian": Path("/etc/debian_version").read_text(encoding="utf-8").strip()}
    for line in listing.splitlines():
        package, version, status = line.split(" ")
        # Debian packages every major version under a name of its own.
        name = "postgresql" if re.fullmatch(r"postgresql-\d+", package) else _PACKAGES.get(package)
        if name and status == "installed":
            found[name] = version
    if _AIRFLOW_LINK.is_symlink():
        found["airflow"] = _AIRFLOW_LINK.readlink().name
    return found


def disks(mounts: str | None = None) -> list[dict[str, Any]]:
    """Return how full each local filesystem is, in percent as df counts it."""
    found: dict[int, dict[str, Any]] = {}
    mounts = mounts or Path("/proc/self/mounts").read_text(encoding="utf-8")
    for line in mounts.splitlines():
        _, path, kind, *_ = line.split()
        # Network filesystems stay out: asking a dead one would hang this process.
        if kind in _LOCAL_FILESYSTEMS and Path(path).is_dir():
            usage = shutil.disk_usage(path)
            percent = round(100 * usage.used / max(1, usage.used + usage.free))
            found.setdefault(Path(path).stat().st_dev, {"path": path, "used_percent": percent})
    return list(found.values())


def share(settings: Settings) -> dict[str, Any]:
    """Return whether the DAG share is mounted, whether its server answers, and why its current release is refused."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    mounted = any(line.split()[1] == settings.share_path for line in mounts.splitlines())
    responding = mounted and _answers(settings.share_path)
    return {
        "path": settings.share_path,
        "unit": settings.share_path.strip("/").replace("-", r"\x2d").replace("/", "-") + ".mount",
        "mounted": mounted,
        "responding": responding,
        "refusal": refusal_of_current(Path(settings.share_path), SIGNERS, _REFUSAL_SECONDS) if responding else "",
    }


def _answers(path: str) -> bool:
    # In a process of its own: statfs on a hung mount does not return.
    try:
        run(["stat", "--file-system", "--format=%T", path], timeout_seconds=_TIMEOUT_SECONDS)
    except ProbeError:
        return False
    return True
