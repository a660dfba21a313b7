"""The `ops-agent` command: what `ops` runs on a host. One module a verb; what only some hosts have is imported late."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ops_agent import analyze, lease_verb, operation, settings, status
from ops_agent.archive import commands as archive
from ops_agent.archive import vacuum
from ops_agent.commands import ProbeError


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
    verb.set_defaults(run=lambda arguments: operation.hold(arguments.lock))
    verb = verbs.add_parser("lease", help="ask about the scheduler lease, or move it")
    verb.add_argument("action", choices=lease_verb.ACTIONS, help="change reads what to do from standard input")
    verb.set_defaults(run=lambda arguments: lease_verb.run(arguments.action))
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
    from ops_agent.lease import main as keeper  # noqa: PLC0415

    return keeper.run(arguments.config)


def _analyze(_arguments: argparse.Namespace) -> int:
    try:
        report = analyze.report()
    except ProbeError as error:
        sys.stderr.write(f"ops-agent: {error}\n")
        return 1
    sys.stdout.write(json.dumps(report) + "\n")
    return 0
