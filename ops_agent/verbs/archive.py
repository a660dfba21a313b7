"""`ops-agent archive`: list, show, query, verify, restore and prune archives. JSON lines, the last is the result.

Exit codes: 0 done, 1 failed, 2 usage, 4 an archive is not what was written, 5 another is at work.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops_agent.host import python, user
from ops_agent.metadata import failures
from ops_agent.metadata import settings as settings_file
from ops_agent.metadata.shelf.manifest import Archive, ArchiveError, archives
from ops_agent.metadata.shelf.store import open_store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from ops_agent.metadata.put_back.restore import Outcome
    from ops_agent.metadata.settings import Settings
    from ops_agent.metadata.shelf.store import Store

CHECK_FAILED = 4
_PROGRESS_SECONDS = 0.2


def add(verbs: Any) -> None:
    """Add the verb `archive` and its own verbs."""
    parser = verbs.add_parser("archive", help="list, show, query, verify, restore and prune archives")
    parser.add_argument(
        "--archive-settings", type=Path, default=settings_file.FILE, help="file of role metadata_archive"
    )
    parser.add_argument("--store", help="where archives are, if not where the settings say")
    parser.add_argument("--who", default=os.environ.get("SUDO_USER", ""), help="who asks, for the lock")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="print every archive")
    action = actions.add_parser("show", help="print what is in one archive")
    action.add_argument("id")
    action = actions.add_parser("query", help="answer the SELECT on standard input")
    action.add_argument("--archive", action="append", default=[], metavar="ID", help="only this one; may be repeated")
    action = actions.add_parser("verify", help="read an archive and compare it with what was written")
    action.add_argument("id")
    action = actions.add_parser("restore", help="put the rows of an archive, or of one run, back")
    what = action.add_mutually_exclusive_group(required=True)
    what.add_argument("--archive", metavar="ID")
    what.add_argument("--run", nargs=2, metavar=("DAG_ID", "RUN_ID"), dest="one_run")
    action.add_argument("--keep-for", default="30d", help="no vacuum takes the restored runs before this is over")
    action.add_argument("--dry-run", action="store_true")
    action = actions.add_parser("prune", help="remove archives for good")
    what = action.add_mutually_exclusive_group(required=True)
    what.add_argument("--older-than", metavar="DURATION")
    what.add_argument("--archive", action="append", default=[], metavar="ID")
    action.add_argument("--dry-run", action="store_true")
    action = actions.add_parser("check-policy", help="refuse a policy that no vacuum would understand")
    action.add_argument("file", type=Path)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run one action and return its exit code; an error is one line on stderr."""
    python.borrow("pyarrow", settings_file.LIBRARIES)
    try:
        if arguments.action == "check-policy":
            return _check_policy(arguments.file)
        settings = settings_file.load(arguments.archive_settings)
        user.become(settings.user)
        # The timer and `ops` write the same files, for the same readers.
        os.umask(0o027)
        os.environ.update(settings.environment)
        store = open_store(arguments.store or settings.destination)
        return int(_ACTIONS[arguments.action](arguments, settings, store) or 0)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it was, one line tells it
        return _fail(*failures.meaning(error))


def _check_policy(file: Path) -> int:
    import yaml  # noqa: PLC0415

    from ops_agent.metadata.take import graph, policy  # noqa: PLC0415

    alone = [family.root for family in graph.FAMILIES if family.root != "public.dag_run"]
    try:
        policy.parse(yaml.safe_load(file.read_text(encoding="utf-8")), alone)
    except yaml.YAMLError as error:
        raise ArchiveError(f"the policy is no YAML: {error}") from error
    return 0


def _list(_arguments: argparse.Namespace, _settings: Settings, store: Store) -> None:
    from ops_agent.metadata.shelf import listing  # noqa: PLC0415

    _say({"store": store.url, "archives": [listing.entry(archive) for archive in archives(store)]})


def _show(arguments: argparse.Namespace, _settings: Settings, store: Store) -> None:
    from ops_agent.metadata.shelf import listing  # noqa: PLC0415

    _say(listing.show(Archive(store, arguments.id)))


def _query(arguments: argparse.Namespace, _settings: Settings, store: Store) -> None:
    from ops_agent.metadata.shelf.query import query  # noqa: PLC0415

    for line in query(_chosen(store, arguments.archive), sys.stdin.read()):
        _say(line)


def _verify(arguments: argparse.Namespace, _settings: Settings, store: Store) -> int:
    from ops_agent.metadata.shelf import verify  # noqa: PLC0415

    progress = _Progress()
    report = verify.verify(Archive(store, arguments.id), lambda now: progress.say(files=now.files, rows=now.rows))
    _say(vars(report))
    return CHECK_FAILED if report.problems else 0


def _restore(arguments: argparse.Namespace, settings: Settings, store: Store) -> None:
    from ops_agent.metadata import holds, lock, session  # noqa: PLC0415
    from ops_agent.metadata.put_back.restore import Restorer  # noqa: PLC0415
    from ops_agent.metadata.take.policy import duration  # noqa: PLC0415

    keep = duration(arguments.keep_for, "--keep-for")
    sources = _sources(store, first=arguments.archive)
    whole = [next(sources)] if arguments.archive else []
    progress = _Progress()
    who = f"restore by {arguments.who}"
    with (
        session.connect(settings.dsn, who) as connection,
        session.connect(settings.dsn, who) as first,
        session.connect(settings.dsn, who) as second,
        lock.hold(connection, who),
    ):
        restorer = Restorer(
            connection,
            chain(whole, sources),
            progress.restored,
            writers=(first, second),
            dry_run=arguments.dry_run,
        )
        try:
            if arguments.one_run:
                restorer.run(*arguments.one_run)
            else:
                restorer.archive(whole[0])
        finally:
            if not arguments.dry_run:
                seconds = keep.total_seconds() if keep else float(10**10)
                holds.hold(settings.state_directory, restorer.outcome.runs, seconds=seconds)
        if not arguments.dry_run:
            restorer.analyze()
    _say(restorer.outcome.as_json() | {"dry_run": arguments.dry_run})


def _prune(arguments: argparse.Namespace, settings: Settings, store: Store) -> None:
    from ops_agent.metadata import lock, session  # noqa: PLC0415
    from ops_agent.metadata.shelf import listing, prune  # noqa: PLC0415
    from ops_agent.metadata.take.policy import duration  # noqa: PLC0415

    who = f"prune by {arguments.who}"
    with session.connect(settings.dsn, who) as connection, lock.hold(connection, who):
        if arguments.older_than:
            age = duration(arguments.older_than, "--older-than")
            chosen = prune.older_than(archives(store), age.total_seconds()) if age else []
        else:
            chosen = _chosen(store, arguments.archive)
        removed = []
        for archive in chosen:
            removed.append(listing.entry(archive))
            if not arguments.dry_run:
                prune.remove(archive)
                _say({"event": "pruned", "archive_id": archive.archive_id})
    _say({"pruned": removed, "bytes": sum(each.get("bytes", 0) for each in removed), "dry_run": arguments.dry_run})


_ACTIONS = {
    "list": _list,
    "show": _show,
    "query": _query,
    "verify": _verify,
    "restore": _restore,
    "prune": _prune,
}


def _chosen(store: Store, ids: Sequence[str]) -> list[Archive]:
    """Return the archives of these ids, or all; raise ArchiveError if one does not exist."""
    chosen = [Archive(store, archive_id) for archive_id in ids]
    for archive in chosen:
        archive.manifest()
    return chosen or archives(store)


def _sources(store: Store, first: str | None) -> Iterator[Any]:
    """Read the archive `first`, then all others from the newest on, but for those that are being removed."""
    from ops_agent.metadata.put_back.restore import Source  # noqa: PLC0415
    from ops_agent.metadata.shelf.prune import PRUNING  # noqa: PLC0415

    ordered = [archive.archive_id for archive in reversed(archives(store)) if archive.archive_id != first]
    for archive_id in [*([first] if first else []), *ordered]:
        try:
            source = Source.read(Archive(store, archive_id))
        except ArchiveError as error:
            if archive_id == first:
                raise
            # It may have nothing to do with what is wanted.
            _say({"event": "skipped", "archive_id": archive_id, "error": str(error)})
            continue
        if source.manifest.state != PRUNING:
            yield source
        elif archive_id == first:
            raise ArchiveError(f"archive {first} is being removed; type ops archive prune --env ENV to finish that")


class _Progress:
    """Lines on the way, a few a second."""

    def __init__(self) -> None:
        self._next = 0.0

    def say(self, **figures: Any) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _PROGRESS_SECONDS
            _say({"event": "progress", **figures})

    def restored(self, outcome: Outcome) -> None:
        self.say(rows=sum(outcome.rows.values()), runs=len(outcome.runs), present=outcome.present)


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _fail(reason: str, code: int) -> int:
    sys.stderr.write(f"ops-agent: {reason}\n")
    return code
