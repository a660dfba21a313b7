"""Unfinished runs that would not find their DAG any more after a flip.

Airflow 3.3 takes a run's code from the release that the run began on, but the file to look in from what is recorded of
the DAG now (`ExecuteTask.make`: `ti.dag_model.relative_fileloc`). A DAG that moved to another file is then not found,
and every further task of such a run fails.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from ops_cli.console import hints
from ops_cli.console.errors import OpsError
from ops_cli.dags.changes import Changes

FORCE = "Go on although unfinished runs of a DAG that moves to another file will fail."
_SHOWN = 5


class StrandedError(OpsError):
    """Runs would be stranded; the text names their DAGs."""


class Hosts(Protocol):
    """What is asked of the fleet."""

    def served(self) -> dict[str, Any]:
        """Say which runs are unfinished."""

    def known(self, release: str | None) -> dict[str, Any]:
        """Return a release's manifest, or nothing."""


def refuse(hosts: Hosts, what: Changes, env: str, *, force: bool) -> list[str]:
    """Return a line for each DAG whose unfinished runs a flip would strand. Raises StrandedError unless `force`."""
    moves = {change.dag_id: change.moved_file.partition(" -> ")[::2] for change in what.changed if change.moved_file}
    if not moves:
        return []
    found = list(lines(moves, hosts.served()["unfinished_runs"], hosts.known))
    if found and not force:
        more = f"; and {len(found) - _SHOWN} more DAGs" if len(found) > _SHOWN else ""
        raise StrandedError(
            f"runs in flight would be lost: {'; '.join(found[:_SHOWN])}{more}. Let them end first "
            f"(see {hints.ops(env, 'releases list')}), keep the DAG in its old file until then, or add --force"
        )
    return found


def lines(
    moves: Mapping[str, Sequence[str]],
    unfinished: Sequence[Mapping[str, Any]],
    known: Callable[[str], Mapping[str, Any]],
) -> Iterator[str]:
    """Say which DAGs strand runs; `moves` is by DAG its file now and its file then.

    A run that began before there were releases follows the current one, and one whose release has the DAG in the file
    where it will be (a rollback) finds it.
    """
    for one in unfinished:
        if one["dag_id"] not in moves or not one["release"]:
            continue
        now, then = moves[one["dag_id"]]
        report = known(one["release"]).get("validation") or {}
        began = {dag["dag_id"]: dag["file"] for dag in report.get("dags", ())}.get(one["dag_id"], now)
        if began != then:
            count = f"{one['runs']} unfinished run{'s' * (one['runs'] != 1)}"
            yield f"{one['dag_id']} has {count} of {one['release']}, where it is in {began}, and moves to {then}"
