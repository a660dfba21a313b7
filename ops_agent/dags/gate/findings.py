"""What the gate found: one finding for each broken rule, and the facts about DAGs that the rules are applied to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """An error keeps a tree from becoming a release; a warning is shown."""

    ERROR = "error"
    WARNING = "warning"


# How to repair what a rule found. Rules of the policy can be waived in the file, the others say what cannot work.
FIXES = {
    "cycle": "take out one of the dependencies that close the circle",
    "died": "find what ends the interpreter while the file is imported, and move it into a task",
    "duplicate-dag-id": "give each DAG an id of its own",
    "exits": "take the exit out of the file; raise AirflowFailException inside a task instead",
    "hangs": "move what waits into a task: a DAG file only describes",
    "import": "repair the file; it fails in the same way with: python FILE",
    "invalid-schedule": "use a cron expression, a preset, a timedelta or a timetable",
    "memory": "load data inside a task, and keep none in the file",
    "name": "rename the file; what is shown as \\x.. or \\n is no printable character of UTF-8",
    "no-dags": "name the directory that holds the DAG files",
    "pool-slots": "take fewer pool_slots, or give the pool more before the deploy",
    "output": "remove the print; DAG files are imported again every few seconds",
    "slow": "move work and heavy imports into the tasks that need them",
    "symlink": "replace the link by what it points to: a release holds nothing from outside of it, and nothing twice",
    "top-level-database": "open connections inside a task; while a file is imported there is no database",
    "top-level-metadata": "read it inside a task, or by a template such as {{ var.value.KEY }}",
    "top-level-network": "call it inside a task: the file is imported every few seconds on every scheduler host",
    "top-level-process": "start programs inside a task",
    "unknown-pool": "use a pool that exists, or create this one before the deploy",
    "unknown-queue": "use a queue that some worker pool of the fleet takes tasks from",
    "unreadable": "let everybody read it: chmod a+rX",
    "unstorable": "shorten it, or take it out: nothing of this file could be stored in the metadata database",
    "unstable": "use a fixed value: what changes with every import makes a new DAG version each time",
    "waiver": "write: # airfleet: waive RULE because REASON",
    # The policy's own
    "catchup": "set catchup=False, or waive it with the reason",
    "execution-timeout": "give the tasks an execution_timeout, or the DAG one in default_args",
    "naming": "rename the DAG so that its id matches the pattern",
    "owner": "name the team that is called when it fails: default_args={'owner': ...}",
    "retries": "give the tasks retries, or the DAG in default_args",
    "tags": "add tags=[...] to the DAG",
}


@dataclass(frozen=True, order=True)
class Finding:
    """One broken rule; `line` counts from 1 and is 1 where no better one is known."""

    file: str
    line: int
    rule: str
    message: str
    severity: Severity = Severity.ERROR
    dag_id: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what the report holds, with how to fix it."""
        return asdict(self) | {"fix": FIXES[self.rule]}


@dataclass(frozen=True)
class Task:
    """One task as its DAG file declares it; `hash` covers its settings and the code of its callable."""

    task_id: str
    operator: str
    queue: str
    pool: str
    pool_slots: int
    owner: str
    retries: int
    has_timeout: bool
    is_empty: bool
    hash: str
    line: int


@dataclass(frozen=True)
class Dag:
    """One DAG as its file declares it; `files` are the files of the tree that were imported with it."""

    dag_id: str
    file: str
    line: int
    schedule: str
    catchup: bool
    tags: tuple[str, ...]
    hash: str
    files: tuple[str, ...]
    tasks: tuple[Task, ...]

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Dag:
        """Read what `as_json` wrote."""
        tasks = tuple(Task(**task) for task in raw["tasks"])
        return cls(**raw | {"tasks": tasks, "tags": tuple(raw["tags"]), "files": tuple(raw["files"])})


@dataclass(frozen=True)
class Imported:
    """What the import of one file brought; `seconds` is without the time it waited for a processor."""

    file: str
    seconds: float
    dags: tuple[Dag, ...] = ()
    findings: tuple[Finding, ...] = ()
    source: str = field(default="", repr=False)
