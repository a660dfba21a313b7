"""The `ops-agent` command: what `ops` runs on a host. One module a verb; what only some hosts have is imported late."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ops_agent.database import analyze
from ops_agent.host import settings
from ops_agent.verbs import archive, dag_health, lease, lock, release, status, vacuum
from ops_agent.verbs import validate as gate
from ops_release.run import ProbeError


def run(words: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code: 0 done, 1 failed, 2 usage, 5 lock held by another."""
    parser = argparse.ArgumentParser(prog="ops-agent", description=__doc__)
    parser.add_argument("--settings", type=Path, default=settings.DIRECTORY, help="directory of agent.json")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("status", help="print what this host runs and how it is")
    verb.add_argument("--json", action="store_true", help="on one line, for `ops`; otherwise indented")
    verb.set_defaults(run=_status)
    verb = verbs.add_parser("scheduler", help="keep the scheduler lease and run Airflow's scheduler while it is held")
    verb.add_argument("--config", type=Path, default=Path("/etc/airflow/keeper.json"), help="file that says how")
    verb.set_defaults(run=_scheduler)
    verb = verbs.add_parser("operation", help="hold a lock of the fleet's for as long as standard input stays open")
    verb.add_argument("--lock", required=True, choices=("scheduler", "dags", "metadata"), help="what is being changed")
    verb.set_defaults(run=lambda arguments: lock.hold(arguments.lock))
    verb = verbs.add_parser("release", help="publish, copy and inspect DAG releases")
    release.add_arguments(verb)
    verb.set_defaults(run=_release)
    verb = verbs.add_parser("validate", help="judge a directory of DAG files before it becomes a release")
    gate.add_arguments(verb)
    verb.set_defaults(run=_validate)
    verb = verbs.add_parser("dag-health", help="print how DAGs are parsed and tasks end")
    dag_health.add_arguments(verb)
    verb.set_defaults(run=dag_health.run)
    verb = verbs.add_parser("lease", help="ask about the scheduler lease, or move it")
    verb.add_argument("action", choices=lease.ACTIONS, help="change reads what to do from standard input")
    verb.set_defaults(run=lambda arguments: lease.run(arguments.action))
    verb = verbs.add_parser("analyze", help="print what the metadata database spends its time and space on")
    verb.set_defaults(run=_analyze)
    vacuum.add_parser(verbs)
    archive.add_parser(verbs)
    arguments = parser.parse_args(words)
    return int(arguments.run(arguments))


def _status(arguments: argparse.Namespace) -> int:
    try:
        host = settings.load(arguments.settings)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"ops-agent: {arguments.settings}/agent.json: {error!r}; converge role ops_agent\n")
        return 1
    sys.stdout.write(json.dumps(status.collect(host), indent=None if arguments.json else 2) + "\n")
    sys.stdout.flush()
    return 0


def _scheduler(arguments: argparse.Namespace) -> int:
    # Beside Airflow alone are psycopg2 and prometheus_client to be found.
    from ops_airflow.scheduler import main as keeper  # noqa: PLC0415

    return keeper.run(arguments.config)


def _release(arguments: argparse.Namespace) -> int:
    # Not for `ops status`, which is to be quick.
    from ops_agent.dags import releases  # noqa: PLC0415

    return releases.run(arguments)


def _validate(arguments: argparse.Namespace) -> int:
    from ops_agent.dags.gate import main as validation  # noqa: PLC0415

    return validation.run(arguments)


def _analyze(_arguments: argparse.Namespace) -> int:
    try:
        report = analyze.report()
    except ProbeError as error:
        sys.stderr.write(f"ops-agent: {error}\n")
        return 1
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run())
