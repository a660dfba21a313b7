"""The `ops-agent` command: what `ops` runs on a host. Standard library only, and one module a verb."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ops_agent import settings, status
from ops_agent.release import arguments as release


def run(words: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code: 0 done, 1 failed, 2 usage."""
    parser = argparse.ArgumentParser(prog="ops-agent", description=__doc__)
    parser.add_argument("--settings", type=Path, default=settings.DIRECTORY, help="directory of agent.json")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("status", help="print what this host runs and how it is")
    verb.add_argument("--json", action="store_true", help="on one line, for `ops`; otherwise indented")
    verb = verbs.add_parser("scheduler", help="keep the scheduler lease and run Airflow's scheduler while it is held")
    verb.add_argument("--config", type=Path, default=Path("/etc/airflow/keeper.json"), help="file that says how")
    release.add_arguments(verbs.add_parser("release", help="publish, copy and inspect DAG releases"))
    arguments = parser.parse_args(words)
    if arguments.verb == "release":
        from ops_agent.release import main as releases  # noqa: PLC0415 - not for `ops status`, which is to be quick

        return releases.run(arguments)
    if arguments.verb == "scheduler":
        # Beside Airflow alone are psycopg2 and prometheus_client to be found.
        from ops_agent.lease import main as keeper  # noqa: PLC0415

        return keeper.run(arguments.config)
    try:
        host = settings.load(arguments.settings)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"ops-agent: {arguments.settings}/agent.json: {error!r}; converge role ops_agent\n")
        return 1
    sys.stdout.write(json.dumps(status.collect(host), indent=None if arguments.json else 2) + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(run())
