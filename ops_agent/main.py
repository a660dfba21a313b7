"""The `ops-agent` command: what `ops` runs on a host. One module a verb; what only some hosts have is imported late."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ops_agent.host import settings
from ops_agent.verbs import analyze, archive, dag_health, lease, lock, release, serve, status, vacuum, validate, worker

VERBS = (serve, status, lock, release, validate, dag_health, lease, analyze, vacuum, archive, worker)


def run(words: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code: 0 done, 1 failed, 2 usage, 5 lock held by another."""
    parser = argparse.ArgumentParser(prog="ops-agent", description=__doc__)
    # For `serve`, which runs other verbs.
    parser.set_defaults(main=run)
    parser.add_argument("--settings", type=Path, default=settings.DIRECTORY, help="directory of agent.json")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in VERBS:
        verb.add(verbs)
    arguments = parser.parse_args(words)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(run())
