import dataclasses
import json
from typing import Any

import pytest

from ops_agent.dags.gate import policy, rules, waivers
from ops_agent.dags.gate.findings import Dag, Finding, Imported, Severity
from tests.unit.ops_agent.dags.gate.dags import dag, imported, task

STRICT = policy.parse(
    {
        "rules": {
            "owner": {"pattern": "finance|sales"},
            "tags": {"at_least": 1},
            "retries": {"at_least": 1, "severity": "warning"},
            "execution-timeout": {},
            "naming": {"pattern": "[a-z_]+"},
            "catchup": {},
        },
        "pools": {"default_pool": 128, "wide": -1},
        "queues": ["cpu", "io"],
    }
)


def found(*dags: Dag, source: str = "", seconds: float = 0.1, using: policy.Policy = STRICT) -> list[tuple[Any, ...]]:
    standing, _ = rules.judge([imported(*dags, source=source, seconds=seconds)], using)
    return [(finding.line, finding.rule, finding.severity.value) for finding in standing]


def test_dag_in_order_breaks_nothing() -> None:
    assert found(dag()) == []


@pytest.mark.parametrize(
    ("broken", "line", "rule", "severity"),
    [
        (dag("nightly", task(pool="gone")), 7, "unknown-pool", "error"),
        (dag("nightly", task(pool_slots=129)), 7, "pool-slots", "error"),
        (dag("nightly", task(queue="gpu")), 7, "unknown-queue", "error"),
        (dag("nightly", task(owner="airflow")), 7, "owner", "error"),
        (dag("nightly", task(retries=0)), 7, "retries", "warning"),
        (dag("nightly", task(has_timeout=False)), 7, "execution-timeout", "error"),
        (dag(tags=()), 3, "tags", "error"),
        (dag("Nightly-1"), 3, "naming", "error"),
        (dag(catchup=True), 3, "catchup", "error"),
    ],
)
def test_broken_rule_is_found_where_it_is_broken(broken: Dag, line: int, rule: str, severity: str) -> None:
    assert found(broken) == [(line, rule, severity)]


def test_pool_without_limit_or_of_unknown_size_has_slots_for_every_task() -> None:
    assert found(dag("nightly", task(pool="wide", pool_slots=10_000), task("all", pool_slots=128))) == []
    assert found(dag("nightly", task(pool_slots=10_000)), using=policy.parse({"pools": ["default_pool"]})) == []


def test_rules_without_a_policy_are_not_in_force() -> None:
    bare = dag("Nightly-1", task(owner="airflow", retries=0, has_timeout=False, queue="gpu"), tags=(), catchup=True)
    assert found(bare, using=policy.Policy()) == []


def test_empty_task_needs_neither_retries_nor_timeout() -> None:
    assert found(dag("nightly", task(is_empty=True, retries=0, has_timeout=False))) == []


def test_many_tasks_are_one_finding() -> None:
    tasks = [task(f"t{number}", has_timeout=False) for number in range(9)]
    standing, _ = rules.judge([imported(dag("nightly", *tasks))], STRICT)
    assert [finding.message for finding in standing] == ["tasks t0, t1, t2 and 6 more of nightly: no execution_timeout"]


def test_same_id_in_two_files_is_found_in_both_and_names_the_other() -> None:
    one, two = dag("same", file="a.py"), dag("same", file="b.py", line=9)
    standing, _ = rules.judge([imported(one), imported(two)], policy.Policy())
    assert [(finding.file, finding.rule, finding.message) for finding in standing] == [
        ("a.py", "duplicate-dag-id", "DAG same is also in b.py:9"),
        ("b.py", "duplicate-dag-id", "DAG same is also in a.py:3"),
    ]


@pytest.mark.parametrize(("seconds", "rules_broken"), [(1.9, []), (2.1, ["slow"])])
def test_slow_file_is_found(seconds: float, rules_broken: list[str]) -> None:
    assert [rule for _, rule, _ in found(dag(), seconds=seconds)] == rules_broken


def test_file_that_failed_is_not_called_slow_as_well() -> None:
    failed = Imported("a.py", 9.0, findings=(Finding("a.py", 4, "memory", "MemoryError"),))
    standing, _ = rules.judge([failed], policy.Policy())
    assert [finding.rule for finding in standing] == ["memory"]


def test_policy_sets_how_grave_a_built_in_rule_is() -> None:
    lenient = policy.parse({"rules": {"slow": {"severity": "warning", "seconds": 1}}})
    assert found(dag(), seconds=1.5, using=lenient) == [(1, "slow", "warning")]


def test_waiver_covers_one_dag_and_is_reported_with_its_reason() -> None:
    source = "# airfleet: waive tags for one because the portal lists it\n"
    both = Imported("f.py", 0.1, (dag("one", tags=(), file="f.py"), dag("two", tags=(), file="f.py")), source=source)
    standing, used = rules.judge([both], STRICT)
    assert [(finding.rule, finding.dag_id) for finding in standing] == [("tags", "two")]
    assert [(waiver.rule, waiver.dag_id, waiver.reason) for waiver in used] == [("tags", "one", "the portal lists it")]


def test_waiver_that_waives_nothing_is_a_warning() -> None:
    assert found(dag(), source="x = 1\n# airfleet: waive retries, tags because of that\n") == [
        (2, "waiver", "warning"),
        (2, "waiver", "warning"),
    ]


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        ("# airfleet: waive tags", "without a reason"),
        ("# airfleet: ignore tags because I say so", "not a waiver"),
        ("# airfleet: waive speed because of that", "speed is no rule"),
        ("# airfleet: waive cycle because of that", "cycle cannot be waived"),
    ],
)
def test_waiver_that_is_none_is_an_error(comment: str, text: str) -> None:
    standing, _ = rules.judge([imported(dag(tags=()), source=comment + "\n")], STRICT)
    mistakes = [finding for finding in standing if finding.rule == "waiver"]
    assert [finding.severity for finding in mistakes] == [Severity.ERROR]
    assert text in mistakes[0].message


def test_waiver_in_a_string_waives_nothing() -> None:
    assert found(dag(tags=()), source='x = "# airfleet: waive tags because"\n') == [(3, "tags", "error")]


def test_dag_survives_the_way_through_json() -> None:
    one = dag("nightly", task("a"), task("b"))
    assert Dag.from_json(json.loads(json.dumps(dataclasses.asdict(one)))) == one


def test_source_with_a_nul_has_no_waivers() -> None:
    assert waivers.read("a.py", "# airfleet: waive slow because \0\n") == ([], [])
