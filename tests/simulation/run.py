"""Run schedules and break rules: `python -m tests.simulation.run [--schedules 100000] [--first 0]`."""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.mutations import MUTATIONS
from tests.simulation.world import BrokenError, World

BATCH = 250
# Every mutation is found far below this many schedules.
MUTATION_SCHEDULES = 20_000


def failures(seeds: range) -> list[str]:
    """Run the real protocol on each seed; return what broke."""
    found = []
    for seed in seeds:
        try:
            World(seed).run()
        except BrokenError as broken:
            found.append(f"seed {seed}: {broken}")
    return found


def caught(name: str, limit: int = MUTATION_SCHEDULES) -> str | None:
    """Run one mutation until something breaks; return what, or None if nothing did in `limit` schedules."""
    protocol_class, broken = MUTATIONS[name]
    for seed in range(limit):
        try:
            World(seed, protocol_class, broken).run()
        except BrokenError as found:
            return f"seed {seed}: {found}"
    return None


def main() -> int:
    """Return 0 if no schedule broke a property and every mutation did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    last = options.first + options.schedules
    batches = [range(seed, min(seed + BATCH, last)) for seed in range(options.first, last, BATCH)]
    wrong = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name, found in zip(MUTATIONS, pool.map(caught, MUTATIONS), strict=True):
            wrong += found is None
            sys.stdout.write(f"{'MISSED' if found is None else 'caught'}  {name}: {found}\n")
        began = time.monotonic()
        for found in pool.map(failures, batches):
            wrong += len(found)
            sys.stdout.writelines(f"BROKEN  {line}\n" for line in found)
            sys.stdout.flush()
    seconds = time.monotonic() - began
    sys.stdout.write(f"{options.schedules} schedules in {seconds:.0f} s, {options.schedules / seconds:.0f} a second\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
