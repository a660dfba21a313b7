"""Imports one DAG file as the DAG processor does, and says what it declares; runs in a process of its own."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

from ops_agent.dags.gate import stored
from ops_agent.dags.gate.findings import Dag, Finding, Imported, Severity, Task
from ops_agent.dags.gate.guard import MARK, Guard
from ops_agent.dags.gate.places import frames, names

if TYPE_CHECKING:
    from collections.abc import Iterator

BUNDLE = "fleet"
_SHOWN = 60
# What differs between two imports of the same file: addresses, and the module's name, which has the path's digest.
_VOLATILE = re.compile(r" at 0x[0-9a-f]+|unusual_prefix_[0-9a-f]{40}_")
_NO_DATABASE = ("database access via the ORM", "Database access is disabled", "Access to the Airflow Metadatabase")


def import_file(path: Path, tree: Path) -> Imported:
    """Import one file of the tree and return its DAGs, or why there are none."""
    file = str(path.relative_to(tree))
    source = path.read_text(encoding="utf-8", errors="replace") if path.suffix == ".py" else ""
    guard = Guard(tree, file)
    guard.arm()
    started = time.monotonic() - _waited()
    last = next(reversed(sys.modules))
    dags, findings = _load(path, tree, source)
    seconds = time.monotonic() - _waited() - started
    guard.armed = False
    files = tuple(sorted({file, *_imported_files(tree, last)}))
    dags = [replace(dag, files=files) for dag in dags]
    findings += _unstable(path, file)
    # The refusal is the cause and has its own finding; what the code made of it is not another.
    refused = {finding.line for finding in guard.findings if finding.severity is Severity.ERROR}
    findings = [
        found for found in findings if found.rule != "import" or not (MARK in found.message or found.line in refused)
    ]
    return Imported(file, round(seconds, 3), tuple(dags), (*findings, *guard.findings), source)


def _load(path: Path, tree: Path, source: str) -> tuple[list[Dag], list[Finding]]:
    from airflow.dag_processing.dagbag import BundleDagBag, _validate_executor_fields  # noqa: PLC0415
    from airflow.dag_processing.importers import get_importer_registry  # noqa: PLC0415

    file = str(path.relative_to(tree))
    bag = BundleDagBag(dag_folder=str(path), bundle_path=tree, bundle_name=BUNDLE, collect_dags=False)
    importer = get_importer_registry().get_importer(path)
    result = importer.import_file(path, bundle_path=tree, bundle_name=BUNDLE, safe_mode=True)
    findings = [_broken(file, error.stacktrace or error.message, str(tree)) for error in result.errors]
    dags = []
    # A DAG's hash covers its tasks, so the importer's set has one that was added to meanwhile twice.
    once = {id(dag): dag for dag in result.dags}.values()
    for dag in sorted(once, key=lambda dag: str(dag.dag_id)):
        try:
            dag.validate()
            _validate_executor_fields(dag)
            bag.bag_dag(dag)
            data, back = _stored(dag)
            findings += _unstorable(back, data, file, source)
            dags.append(_facts(dag, data, tree, file, source))
        except Exception as error:  # noqa: BLE001
            findings.append(_refused(file, _line(source, dag.dag_id), dag.dag_id, error))
    return dags, findings


def _broken(file: str, text: str, root: str) -> Finding:
    places = frames(text, root)
    line = next((line for name, line in reversed(places) if name == file), 1)
    reason = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")
    if places and places[-1][0] != file:
        reason += f", in {places[-1][0]} line {places[-1][1]}"
    return Finding(file, line, _rule(reason), reason)


def _refused(file: str, line: int, dag_id: str, error: Exception) -> Finding:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return Finding(file, line, _rule(reason), f"DAG {dag_id}: {reason}", dag_id=dag_id)


def _unstorable(dag: Any, data: dict[str, Any], file: str, source: str) -> Iterator[Finding]:
    for task_id, text in stored.misfits(dag, data):
        name = dag.dag_id if len(dag.dag_id) <= _SHOWN else f"{dag.dag_id[:_SHOWN]}..."
        whose = f"task {task_id} of {name}" if task_id else f"DAG {name}"
        yield Finding(file, _line(source, dag.dag_id, task_id), "unstorable", f"{whose}: {text}", dag_id=dag.dag_id)


def _line(source: str, dag_id: str, task_id: str = "") -> int:
    lines = names(source)
    return lines.get(task_id.rpartition(".")[2] if task_id else dag_id, lines.get(dag_id, 1))


def _rule(reason: str) -> str:
    exception = reason.partition(":")[0].rpartition(".")[2]
    rules = {
        "AirflowDagCycleException": "cycle",
        "AirflowDagDuplicatedIdException": "duplicate-dag-id",
        "AirflowTimetableInvalid": "invalid-schedule",
        "MemoryError": "memory",
        "SystemExit": "exits",
    }
    if any(text in reason for text in _NO_DATABASE):
        return "top-level-database"
    return rules.get(exception, "import")


def _stored(dag: Any) -> tuple[dict[str, Any], Any]:
    """Return the DAG as it is stored, and as the scheduler reads it back: what it cannot read is an error there."""
    from airflow.serialization.serialized_objects import DagSerialization  # noqa: PLC0415

    data = DagSerialization.to_dict(dag)
    return data, DagSerialization.from_dict(json.loads(json.dumps(data)))


def _facts(dag: Any, data: dict[str, Any], tree: Path, file: str, source: str) -> Dag:
    described = data["dag"]
    for volatile in ("fileloc", "relative_fileloc", "_processor_dags_folder"):
        described.pop(volatile, None)
    serialized = {raw["__var"]["task_id"]: raw for raw in described.pop("tasks")}
    tasks = tuple(
        _task(task, serialized[task_id], tree, _line(source, dag.dag_id, task_id))
        for task_id, task in sorted(dag.task_dict.items())
    )
    return Dag(
        dag_id=dag.dag_id,
        file=file,
        line=_line(source, dag.dag_id),
        schedule=str(getattr(dag.timetable, "summary", None) or dag.schedule),
        catchup=bool(dag.catchup) and bool(getattr(dag.timetable, "can_be_scheduled", True)),
        tags=tuple(sorted(dag.tags)),
        hash=_digest([data, [task.hash for task in tasks]], tree),
        files=(file,),
        tasks=tasks,
    )


def _task(task: Any, serialized: Any, tree: Path, line: int) -> Task:
    function = getattr(task, "python_callable", None) or getattr(task, "partial_kwargs", {}).get("python_callable")
    code = getattr(function, "__code__", None)
    return Task(
        task_id=task.task_id,
        operator=task.task_type,
        queue=task.queue,
        pool=task.pool,
        pool_slots=int(task.pool_slots or 1),
        owner=task.owner,
        retries=int(task.retries or 0),
        has_timeout=task.execution_timeout is not None,
        is_empty=bool(task.inherits_from_empty_operator),
        hash=_digest([serialized, _code(code) if code else None], tree),
        line=line,
    )


def _digest(value: Any, tree: Path) -> str:
    text = json.dumps(value, sort_keys=True, default=str).replace(str(tree), "")
    return hashlib.sha256(_VOLATILE.sub("", text).encode()).hexdigest()[:12]


def _code(code: CodeType) -> list[Any]:
    # Not the line numbers: a comment above a task changes nothing in it.
    return [code.co_code.hex(), code.co_names, [_constant(constant) for constant in code.co_consts]]


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _code(value)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


def _imported_files(tree: Path, last: str) -> Iterator[str]:
    # Only what came after the fork: to look at a module is to copy its pages from the parent, 3000 times over.
    for name in list(takewhile(lambda name: name != last, reversed(sys.modules))):
        origin = getattr(sys.modules[name], "__file__", None)
        if isinstance(origin, str) and origin.startswith(f"{tree}/"):
            yield str(Path(origin).relative_to(tree))


def _unstable(path: Path, file: str) -> list[Finding]:
    from airflow.utils.dag_version_inflation_checker import check_dag_file_stability  # noqa: PLC0415

    return [
        Finding(file, found.line, "unstable", f"{found.message}: {found.code}", Severity.WARNING)
        for found in check_dag_file_stability(path).warnings.values()
    ]


def _waited() -> float:
    """Return the seconds this process was ready and had no processor: another's load is not the file's slowness."""
    try:
        return int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
