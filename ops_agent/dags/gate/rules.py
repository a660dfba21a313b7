"""The rules over what the imports brought; pure, so that each is tested without Airflow."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from ops_agent.dags.gate import waivers
from ops_agent.dags.gate.findings import Finding, Severity
from ops_agent.dags.gate.policy import SLOW_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ops_agent.dags.gate.findings import Dag, Imported, Task
    from ops_agent.dags.gate.policy import Policy

_SHOWN = 3


def judge(imports: Sequence[Imported], policy: Policy) -> tuple[list[Finding], list[waivers.Waiver]]:
    """Apply every rule; return the findings that stand, by file and line, and the waivers that were used."""
    findings = [finding for done in imports for finding in done.findings]
    dags = [dag for done in imports for dag in done.dags]
    findings += slow(imports, policy)
    findings += duplicates(dags)
    for dag in dags:
        findings += unknown_places(dag, policy)
        findings += own_rules(dag, policy)
    given: list[waivers.Waiver] = []
    for done in imports:
        found, mistakes = waivers.read(done.file, done.source)
        given += found
        findings += mistakes
    graded = [_graded(finding, policy) for finding in findings]
    standing, used = waivers.apply(graded, given)
    return sorted(set(standing)), used


def slow(imports: Iterable[Imported], policy: Policy) -> Iterator[Finding]:
    """Find files whose import takes longer than the policy allows."""
    limit = float(policy.setting("slow", "seconds", SLOW_SECONDS))
    for done in imports:
        # What failed would have taken another time.
        if done.seconds > limit and not any(found.severity is Severity.ERROR for found in done.findings):
            yield Finding(done.file, 1, "slow", f"its import takes {done.seconds:.1f} s, {limit:g} s are allowed")


def duplicates(dags: Iterable[Dag]) -> Iterator[Finding]:
    """Find ids that several files use: Airflow would show the one or the other by turns."""
    by_id: dict[str, list[Dag]] = defaultdict(list)
    for dag in dags:
        by_id[dag.dag_id].append(dag)
    for dag_id, same in by_id.items():
        for dag in same if len(same) > 1 else []:
            others = ", ".join(f"{other.file}:{other.line}" for other in same if other is not dag)
            text = f"DAG {dag_id} is also in {others}"
            yield Finding(dag.file, dag.line, "duplicate-dag-id", text, dag_id=dag_id)


def unknown_places(dag: Dag, policy: Policy) -> Iterator[Finding]:
    """Find tasks that would wait for ever, for a pool or a worker that does not exist."""
    for rule, kind, known in (("unknown-pool", "pool", policy.pools), ("unknown-queue", "queue", policy.queues)):
        for name, tasks in _by(dag.tasks, kind).items():
            if known is not None and name not in known:
                text = f"{_named(tasks)} of {dag.dag_id}: no {kind} {name!r}; there are: {', '.join(sorted(known))}"
                yield Finding(dag.file, tasks[0].line, rule, text, dag_id=dag.dag_id)
    for name, tasks in _by(dag.tasks, "pool").items():
        slots = (policy.pools or {}).get(name)
        if slots is not None and slots >= 0 and (greedy := [task for task in tasks if task.pool_slots > slots]):
            text = f"{_named(greedy)} of {dag.dag_id}: {greedy[0].pool_slots} slots of pool {name!r}, which has {slots}"
            yield Finding(dag.file, greedy[0].line, "pool-slots", text, dag_id=dag.dag_id)


def own_rules(dag: Dag, policy: Policy) -> Iterator[Finding]:
    """Apply the rules that the policy file puts in force."""
    for rule, broken in _broken(dag, policy):
        if rule in policy.severities:
            line = broken[0].line if isinstance(broken, list) else dag.line
            text = f"{_named(broken)} of {dag.dag_id}: {_WHAT[rule]}" if isinstance(broken, list) else broken
            yield Finding(dag.file, line, rule, text, dag_id=dag.dag_id)


_WHAT = {
    "owner": "no owner, or one that the policy does not allow",
    "retries": "fewer retries than the policy asks for",
    "execution-timeout": "no execution_timeout",
}


def _broken(dag: Dag, policy: Policy) -> Iterator[tuple[str, list[Task] | str]]:
    owners = re.compile(policy.setting("owner", "pattern", r"(?!airflow$).+"))
    if tasks := [task for task in dag.tasks if not owners.fullmatch(task.owner)]:
        yield "owner", tasks
    retries = policy.setting("retries", "at_least", 1)
    working = [task for task in dag.tasks if not task.is_empty]
    if tasks := [task for task in working if task.retries < retries]:
        yield "retries", tasks
    if tasks := [task for task in working if not task.has_timeout]:
        yield "execution-timeout", tasks
    if len(dag.tags) < (least := policy.setting("tags", "at_least", 1)):
        yield "tags", f"{dag.dag_id} has {len(dag.tags) or 'no'} tags, the policy asks for {least}"
    pattern = policy.setting("naming", "pattern", r"[a-z][a-z0-9_]*")
    if not re.fullmatch(pattern, dag.dag_id):
        yield "naming", f"{dag.dag_id} does not match {pattern}"
    if dag.catchup:
        yield "catchup", f"{dag.dag_id} catches up: its first deploy starts a run for every interval since start_date"


def _graded(finding: Finding, policy: Policy) -> Finding:
    severity = policy.severities.get(finding.rule, finding.severity)
    if finding.rule == "waiver":
        severity = Severity.ERROR
    values = (finding.file, finding.line, finding.rule, finding.message)
    return Finding(*values, severity=severity, dag_id=finding.dag_id)


def _by(tasks: Sequence[Task], kind: str) -> dict[str, list[Task]]:
    groups: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        groups[getattr(task, kind)].append(task)
    return groups


def _named(tasks: Sequence[Task]) -> str:
    names = ", ".join(task.task_id for task in tasks[:_SHOWN])
    more = f" and {len(tasks) - _SHOWN} more" if len(tasks) > _SHOWN else ""
    return f"task{'s' * (len(tasks) > 1)} {names}{more}"
