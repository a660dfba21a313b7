"""`ops-agent validate`: judge a directory of DAG files by the gate; its options, and the way in for another Python."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIG = Path("/etc/airflow/airflow.cfg")
_STDIN = Path("-")


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("validate", help="judge a directory of DAG files before it becomes a release")
    _add_arguments(parser)
    parser.add_argument("--keep", metavar="DIGEST", help="keep what came on standard input for `release publish`")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge the tree; return the exit code: 0 nothing refuses it, 4 something does, 2 the tree cannot be read."""
    # Not for `ops status`, which is to be quick.
    from ops_agent.dags.gate import main as gate  # noqa: PLC0415
    from ops_agent.dags.gate import streamed  # noqa: PLC0415

    return streamed.run(arguments) if arguments.tree == _STDIN else gate.run(arguments)


def main(words: Sequence[str] | None = None) -> int:
    """Run the gate alone, as `python -m ops_agent.verbs.validate`: what `ops validate --local` starts."""
    parser = argparse.ArgumentParser(prog="python -m ops_agent.verbs.validate", description=__doc__)
    _add_arguments(parser)
    return run(parser.parse_args(words))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tree", type=Path, help="directory of DAG files; - is dags/ of a tar archive on stdin")
    parser.add_argument("--policy", type=Path, help="policy file, dag-policy.yml at the top of the tree if not given")
    parser.add_argument("--options", default="{}", help="JSON: pools, queues, default_queue, which the fleet knows")
    parser.add_argument("--format", choices=("table", "json", "junit"), default="table", help="how to print the report")
    parser.add_argument("--jobs", type=int, default=0, help="files imported at a time; all processors if not given")
    parser.add_argument("--seconds", type=float, default=30, help="longest import of one file")
    parser.add_argument("--memory-mib", type=int, default=1024, help="most memory of one import beyond Airflow's own")
    parser.add_argument("--config", type=Path, default=CONFIG, help="the airflow.cfg to begin with")
    parser.add_argument("--confined", action="store_true", help="as root: in a transient unit without any privilege")


if __name__ == "__main__":
    sys.exit(main())
