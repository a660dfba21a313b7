"""Memory of the whole lab at rest: the proportional set size (PSS) of every process in its machines, in GB."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.bench.report import Figure, report

RUN = Path("/var/lib/airfleet/lab/run")


def children_by_parent() -> dict[int, list[int]]:
    """Return the process table as parent pid → child pids."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    return children


def pss_bytes(pid: int) -> int:
    """Return one process's PSS in bytes; 0 for a process that ended meanwhile."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def machine_bytes(leader: int, children: dict[int, list[int]]) -> int:
    """Return the PSS in bytes of a machine: its leader and everything below it."""
    return pss_bytes(leader) + sum(machine_bytes(child, children) for child in children.get(leader, []))


def main() -> int:
    """Measure, print a row a machine and the total."""
    children = children_by_parent()
    total = 0
    for pid_file in sorted(RUN.glob("*.pid")):
        used = machine_bytes(int(pid_file.read_text()), children)
        total += used
        print(f"{pid_file.stem:14} {used / 1e9:6.2f} GB", file=sys.stderr)
    if total == 0:
        sys.exit("no lab machine is running; run `make lab` first")
    return report([Figure("memory of the whole lab at rest (PSS)", total / 1e9, "GB", 8)])


if __name__ == "__main__":
    sys.exit(main())
