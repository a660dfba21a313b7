"""What a release changes, DAG by DAG and task by task, from the gate's reports of two releases."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DagChange:
    """What becomes of one DAG that is in both releases."""

    dag_id: str
    added_tasks: tuple[str, ...]
    removed_tasks: tuple[str, ...]
    changed_tasks: tuple[str, ...]
    moved_tasks: tuple[str, ...]
    files: tuple[str, ...]


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
            yield f"changed {change.dag_id}: {'; '.join(parts) or 'code in ' + ', '.join(change.files)}"


def between(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Changes:
    """Compare two manifests (their gate's reports and file digests); without an old one every DAG is added."""
    before, after = _dags(old or {}), _dags(new)
    touched = _touched(old or {}, new)
    changed = [
        change
        for dag_id in sorted(before.keys() & after.keys())
        if (change := _compare(before[dag_id], after[dag_id], touched))
    ]
    return Changes(
        tuple(sorted(after.keys() - before.keys())), tuple(sorted(before.keys() - after.keys())), tuple(changed)
    )


def _compare(old: Mapping[str, Any], new: Mapping[str, Any], touched: frozenset[str]) -> DagChange | None:
    before = {task["task_id"]: task for task in old["tasks"]}
    after = {task["task_id"]: task for task in new["tasks"]}
    both = sorted(before.keys() & after.keys())
    files = tuple(sorted(touched & {*old["files"], *new["files"]}))
    if old["hash"] == new["hash"] and not files:
        return None
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
    )


def _dags(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {dag["dag_id"]: dag for dag in (manifest.get("validation") or {}).get("dags", [])}


def _touched(old: Mapping[str, Any], new: Mapping[str, Any]) -> frozenset[str]:
    before = {**old.get("files", {}), **old.get("links", {})}
    after = {**new.get("files", {}), **new.get("links", {})}
    return frozenset(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
