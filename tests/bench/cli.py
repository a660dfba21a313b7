"""What the command line costs on the control node: wall time and CPU of `ops --help` and `ops status`.

The same is measured, in turn, of the version before the command line was made anew (by its commit, in a checkout and
environment of its own), against the same lab.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.report import Figure, report

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
BEFORE = "3b4b46e"
ROUNDS = 10


@dataclass(frozen=True)
class Cost:
    """Seconds of one command: on the clock, and of CPU in it and what it started here."""

    wall: float
    cpu: float


def cost(checkout: Path, *words: str) -> Cost:
    """Run `ops` of a checkout once. Exits if it fails."""
    command = [str(checkout / ".venv/bin/ops"), *words]
    started = time.monotonic()
    with subprocess.Popen(command, cwd=checkout, stdout=subprocess.DEVNULL, env=os.environ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}: the lab is to be up and healthy")
    return Cost(time.monotonic() - started, usage.ru_utime + usage.ru_stime)


@contextmanager
def before() -> Iterator[Path]:
    """Give a checkout of the version before, with its environment."""
    with tempfile.TemporaryDirectory() as directory:
        checkout = Path(directory, "before")
        subprocess.run(["git", "worktree", "add", "--detach", checkout, BEFORE], cwd=ROOT, check=True)
        try:
            subprocess.run(["bin/bootstrap"], cwd=checkout, check=True, stdout=sys.stderr)
            yield checkout
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", checkout], cwd=ROOT, check=True)


def measured(checkout: Path, peer: Path, *words: str) -> tuple[Cost, Cost]:
    """Run both in turn; return the median of each."""
    ours, theirs = [], []
    cost(checkout, *words)
    for _ in range(ROUNDS):
        ours.append(cost(checkout, *words))
        theirs.append(cost(peer, *words))
    return median(ours), median(theirs)


def median(costs: list[Cost]) -> Cost:
    """Return the median of wall and of CPU, each by itself."""
    return Cost(statistics.median(each.wall for each in costs), statistics.median(each.cpu for each in costs))


def main() -> int:
    """Measure both commands of both versions."""
    with before() as peer:
        helped, helped_before = measured(ROOT, peer, "--help")
        asked, asked_before = measured(ROOT, peer, "status")
    print(
        f"{BEFORE} in the same run: --help {helped_before.wall:.2f} s; "
        f"status {asked_before.cpu:.2f} s of CPU, {asked_before.wall:.2f} s of wall time"
    )
    return report(
        [
            Figure(f"`ops --help`, wall time, median of {ROUNDS}", helped.wall, "s", 0.25),
            Figure(f"`ops status`, CPU on the control node, median of {ROUNDS}", asked.cpu, "s", 1.2),
            Figure(f"`ops status`, wall time, median of {ROUNDS}", asked.wall, "s", 1.5),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
