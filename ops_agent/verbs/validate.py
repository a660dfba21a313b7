"""The options of `ops-agent validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser

CONFIG = Path("/etc/airflow/airflow.cfg")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("tree", type=Path, help="directory of DAG files")
    parser.add_argument("--policy", type=Path, help="policy file, dag-policy.yml at the top of the tree if not given")
    parser.add_argument("--options", default="{}", help="JSON: pools, queues, default_queue, which the fleet knows")
    parser.add_argument("--format", choices=("table", "json", "junit"), default="table", help="how to print the report")
    parser.add_argument("--jobs", type=int, default=0, help="files imported at a time; all processors if not given")
    parser.add_argument("--seconds", type=float, default=30, help="longest import of one file")
    parser.add_argument("--memory-mib", type=int, default=1024, help="most memory of one import beyond Airflow's own")
    parser.add_argument("--config", type=Path, default=CONFIG, help="the airflow.cfg to begin with")
    parser.add_argument("--confined", action="store_true", help="as root: in a transient unit without any privilege")
