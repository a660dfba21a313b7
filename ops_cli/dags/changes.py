"""What a release changes, DAG by DAG and task by task, from the gate's reports of two releases."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ops_cli.dags.source import entry


@dataclass(frozen=True)
class DagChange:
    """What becomes of one DAG that is in both releases."""

    dag_id: str
    added_tasks: tuple[str, ...]
    removed_tasks: tuple[str, ...]
    changed_tasks: tuple[str, ...]
    moved_tasks: tuple[str, ...]
    files: tuple[str, ...]
    moved_file: str = ""


@dataclass(frozen=True)
class Changes:
    """What becomes of all DAGs; `changed` holds also those of which only an imported file is another."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[DagChange, ...] = ()

    @property
    def affected(self) -> tuple[str, ...]:
        """The DAGs that must be parsed again before the release is seen."""
        return tuple(sorted({*self.added, *(change.dag_id for change in self.changed)}))

    def as_json(self) -> dict[str, Any]:
        """Return the document that `ops releases diff --format json` prints."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Say it for a terminal; what removes or moves something is in capitals."""
        for dag_id in self.removed:
            yield f"REMOVED {dag_id}: its history stays, it is no longer scheduled"
        for dag_id in self.added:
            yield f"added   {dag_id}"
        for change in self.changed:
            parts = [
                f"{word} {', '.join(tasks)}"
                for word, tasks in (
                    ("REMOVES", change.removed_tasks),
                    ("QUEUE", change.moved_tasks),
                    ("adds", change.added_tasks),
                    ("changes", change.changed_tasks),
                )
                if tasks
            ]
            if change.moved_file:
                # A worker looks for a run's tasks in the file that the DAG has now.
                parts.insert(0, f"MOVES {change.moved_file}, and its unfinished runs cannot follow")
            yield f"changed {change.dag_id}: {'; '.join(parts) or 'code in ' + ', '.join(change.files)}"


def between(old: Mapping[str, Any], new: Mapping[str, Any], served: Sequence[Mapping[str, Any]] = ()) -> Changes:
    """Compare two releases by their gate's reports and their files; without an old one every DAG is added.

    A release that was published without the gate has no report: which DAGs it has is then what the database serves
    (`served`), and of their tasks nothing is known.
    """
    before, after = _dags(old, served), _dags(new, served)
    touched = _touched(old, new)
    both = sorted(before.keys() & after.keys())
    changed = [change for dag_id in both if (change := _compare(before[dag_id], after[dag_id], touched))]
    return Changes(
        tuple(sorted(after.keys() - before.keys())), tuple(sorted(before.keys() - after.keys())), tuple(changed)
    )


def _compare(old: Mapping[str, Any], new: Mapping[str, Any], touched: frozenset[str]) -> DagChange | None:
    files = tuple(sorted(touched & {*old["files"], *new["files"]}))
    known = old["hash"] and new["hash"]
    if old["file"] == new["file"] and not files and (not known or old["hash"] == new["hash"]):
        return None
    before = {task["task_id"]: task for task in old["tasks"]} if known else {}
    after = {task["task_id"]: task for task in new["tasks"]} if known else {}
    both = sorted(before.keys() & after.keys())
    return DagChange(
        dag_id=new["dag_id"],
        added_tasks=tuple(sorted(after.keys() - before.keys())),
        removed_tasks=tuple(sorted(before.keys() - after.keys())),
        changed_tasks=tuple(task for task in both if before[task]["hash"] != after[task]["hash"]),
        moved_tasks=tuple(
            f"{task} {before[task]['queue']} -> {after[task]['queue']}"
            for task in both
            if before[task]["queue"] != after[task]["queue"]
        ),
        files=files,
        moved_file="" if old["file"] == new["file"] else f"{old['file']} -> {new['file']}",
    )


def _dags(release: Mapping[str, Any], served: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    if report := release.get("validation"):
        return {dag["dag_id"]: dag for dag in report["dags"]}
    if not release:
        return {}
    return {
        dag["dag_id"]: {"dag_id": dag["dag_id"], "file": dag["file"], "files": [dag["file"]], "hash": "", "tasks": []}
        for dag in served
    }


def _touched(old: Mapping[str, Any], new: Mapping[str, Any]) -> frozenset[str]:
    before, after = _digests(old), _digests(new)
    return frozenset(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _digests(release: Mapping[str, Any]) -> dict[str, str]:
    """Return what `source.contents` says of a packed tree, of a manifest too."""
    if "digests" in release:
        return dict(release["digests"])
    links = {name: f"-> {target}" for name, target in release.get("links", {}).items()}
    files = release.get("files", {})
    return {name: entry(one["sha256"], executable=one.get("executable", False)) for name, one in files.items()} | links
