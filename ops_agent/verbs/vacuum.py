"""`ops-agent vacuum`: JSON lines of progress on stdout, the result last.

Exit codes: 0 done, 1 failed, 2 usage, 5 another vacuum or restore is at work, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops_agent.host import python, user
from ops_agent.metadata import failures, places, runs
from ops_agent.metadata import settings as settings_file
from ops_agent.metadata.failures import UsageError
from ops_agent.metadata.shelf.store import open_store
from ops_agent.metadata.take import pace

if TYPE_CHECKING:
    import argparse

    from ops_agent.metadata.settings import Settings
    from ops_agent.metadata.take.engine import Vacuum
    from ops_agent.metadata.take.plan import Request
    from ops_agent.metadata.take.policy import Policy


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("vacuum", help="move old runs and rows out of the metadata database into an archive")
    parser.add_argument("--archive-settings", type=Path, default=settings_file.FILE, help="how this host archives")
    parser.add_argument("--who", default=os.environ.get("SUDO_USER", "timer"), help="who asks; the lock names him")
    parser.add_argument("--older-than", help="default retention instead of the policy's, as 90d")
    parser.add_argument("--policy", help="a policy's file instead of the host's; - is standard input")
    parser.add_argument("--dag", default="*", help="only runs of DAGs whose id fits this glob")
    parser.add_argument("--keep-last", type=int, help="so many newest runs of each DAG stay")
    parser.add_argument("--tables", default="", help="only these: dag_run, or tables that stand alone, by comma")
    parser.add_argument("--archive-to", help="a directory or URL instead of the host's")
    parser.add_argument("--no-archive", action="store_true", help="delete without keeping anything")
    parser.add_argument("--max-duration", help="begin nothing new after so long, as 2h")
    parser.add_argument("--dry-run", action="store_true", help="count and estimate only")
    parser.add_argument("--reclaim", action="store_true", help="give space back to the disk, online")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; an error is one line on stderr. A real vacuum is remembered, however it ends."""
    started = time.time()
    # systemd's stop, and a hang-up of the session of `ops`: end as a failure does, so that files and database agree.
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _stop)
    python.borrow("pyarrow", settings_file.LIBRARIES)
    settings: Settings | None = None
    result: dict[str, Any] = {}
    error, code = "", 0
    try:
        settings = settings_file.load(arguments.archive_settings)
        user.become(settings.user)
        # The timer and `ops` write the same files, for the same readers.
        os.umask(0o027)
        pace.step_back()
        os.environ.update(settings.environment)
        result = _vacuum(arguments, settings)
    except (Exception, KeyboardInterrupt) as found:  # noqa: BLE001 - whatever it was, it is told and remembered
        error, code = failures.meaning(found)
    if settings and not arguments.dry_run and code not in {failures.USAGE, failures.LOCKED}:
        _remember(settings, result, error, started)
    if error:
        sys.stderr.write(f"ops-agent: {error}\n")
    else:
        _say(result)
    return code


def _vacuum(arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    from ops_agent.metadata.take.engine import Vacuum  # noqa: PLC0415 - needs the libraries

    store = None if arguments.no_archive else open_store(arguments.archive_to or settings.destination)
    kept = places.Places(settings.state_directory)
    vacuum: Vacuum = Vacuum(settings.dsn, store, _request(arguments, settings), _say, kept)
    return vacuum.plan() if arguments.dry_run else vacuum.run()


def _request(arguments: argparse.Namespace, settings: Settings) -> Request:
    from ops_agent.metadata import holds  # noqa: PLC0415
    from ops_agent.metadata.take import graph  # noqa: PLC0415
    from ops_agent.metadata.take.plan import Request  # noqa: PLC0415

    roots = {family.root.rpartition(".")[2]: family.root for family in graph.FAMILIES}
    wanted = [name for name in arguments.tables.split(",") if name]
    if unknown := [name for name in wanted if name not in roots]:
        raise UsageError(
            f"--tables: {unknown[0]!r} is none of {', '.join(sorted(roots))}; what hangs off a run goes with it"
        )
    longest = _duration(arguments.max_duration, "--max-duration")
    return Request(
        policy=_policy(arguments, settings, set(roots) - {"dag_run"}),
        who=arguments.who,
        dag=arguments.dag,
        tables=tuple(roots[name] for name in wanted),
        max_seconds=longest,
        held=tuple(holds.held(settings.state_directory)),
        reclaim=arguments.reclaim,
    )


def _policy(arguments: argparse.Namespace, settings: Settings, tables: set[str]) -> Policy:
    import yaml  # noqa: PLC0415

    from ops_agent.metadata.take import policy  # noqa: PLC0415

    source = Path(arguments.policy) if arguments.policy not in {None, "-"} else settings.policy_file
    text = sys.stdin.read() if arguments.policy == "-" else source.read_text(encoding="utf-8")
    try:
        found = policy.parse(yaml.safe_load(text), tables)
    except yaml.YAMLError as error:
        raise ValueError(f"the policy is no YAML: {error}") from error
    if arguments.older_than:
        found = dataclasses.replace(found, retention=policy.duration(arguments.older_than, "--older-than"))
    if arguments.keep_last is not None:
        if arguments.keep_last < 1:
            raise UsageError("--keep-last: at least the newest run of a DAG stays")
        rules = tuple(dataclasses.replace(rule, keep_last=arguments.keep_last) for rule in found.rules)
        found = dataclasses.replace(found, keep_last=arguments.keep_last, rules=rules)
    return found


def _duration(text: str | None, where: str) -> float | None:
    from ops_agent.metadata.take import policy  # noqa: PLC0415

    if text is None:
        return None
    found = policy.duration(text, where)
    return found.total_seconds() if found else None


def _remember(settings: Settings, result: dict[str, Any], error: str, started: float) -> None:
    now = time.time()
    finished = runs.Run(
        finished_at=now,
        seconds=now - started,
        rows=sum(table["deleted"] for table in result.get("tables", [])),
        stopped_early=result.get("stopped_early", False),
        longest_transaction_seconds=result.get("longest_transaction_s", 0),
        error=error,
    )
    try:
        runs.record(finished, settings.state_directory)
    except OSError as failed:
        sys.stderr.write(f"ops-agent: {settings.state_directory}: {failed.strerror}; this run is not in the metrics\n")


def _stop(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
