"""How long `make lab` takes from nothing and with caches. It removes the lab, its data and, first, every cache."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.report import Figure, report

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path("/var/lib/airfleet/cache")
UV_CACHE = Path.home() / ".cache/uv"


def make(target: str) -> float:
    """Run a make target with its output on stderr; return its minutes. Raises CalledProcessError when it fails."""
    started = time.monotonic()
    subprocess.run(["make", target], cwd=ROOT, check=True, stdout=sys.stderr)
    return (time.monotonic() - started) / 60


def main() -> int:
    """Build the lab twice: with empty caches and no `.venv`, then with both."""
    make("lab-down")
    for cache in (CACHE, UV_CACHE, ROOT / ".venv"):
        shutil.rmtree(cache, ignore_errors=True)
    from_nothing = make("lab")
    make("lab-down")
    return report(
        [
            Figure("`make lab` from nothing, empty caches", from_nothing, "min", 15),
            Figure("`make lab` with caches", make("lab"), "min", 8),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
