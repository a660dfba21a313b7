import json
from xml.etree import ElementTree as ET

import pytest

from ops_agent.dags.gate.findings import FIXES, Finding, Severity
from ops_agent.dags.gate.report import Report
from ops_agent.dags.gate.waivers import WAIVABLE, Waiver
from tests.unit.ops_agent.dags.gate.dags import dag

FINDINGS = [
    Finding("a.py", 4, "cycle", "a <b> & c"),
    Finding("b.py", 2, "output", "prints 'x'", Severity.WARNING),
]


@pytest.fixture
def report() -> Report:
    waived = [Waiver("c.py", 1, "slow", "", "it is")]
    return Report("3.3.2", "3.13.1", 1.5, ["a.py", "b.py", "c.py"], [dag("two"), dag("one")], FINDINGS, waived)


def test_json_holds_findings_with_fixes_and_dags_by_id(report: Report) -> None:
    document = json.loads(json.dumps(report.as_json()))
    assert (document["ok"], document["errors"], document["warnings"]) == (False, 1, 1)
    assert document["findings"][0] == {
        "file": "a.py",
        "line": 4,
        "rule": "cycle",
        "severity": "error",
        "message": "a <b> & c",
        "dag_id": "",
        "fix": FIXES["cycle"],
    }
    assert [found["dag_id"] for found in document["dags"]] == ["one", "two"]
    assert document["waived"] == [{"file": "c.py", "line": 1, "rule": "slow", "dag_id": "", "reason": "it is"}]


def test_junit_has_a_case_for_each_file_and_fails_those_with_errors(report: Report) -> None:
    suite = ET.fromstring(report.as_junit())  # noqa: S314 - our own
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert list(cases) == ["a.py", "b.py", "c.py"]
    failure = cases["a.py"].find("failure")
    assert failure is not None
    assert (failure.get("type"), failure.get("message")) == ("cycle", "a <b> & c")
    assert cases["b.py"].find("failure") is None
    assert "warning: b.py:2" in (cases["b.py"].findtext("system-out") or "")


def test_table_ends_with_errors_and_a_sum(report: Report) -> None:
    lines = report.as_table().splitlines()
    assert lines[0] == "warning b.py:2 output: prints 'x'"
    assert lines[2] == "error   a.py:4 cycle: a <b> & c"
    assert lines[-1] == "3 files, 2 DAGs, 1 error, 1 warning in 1.5 s"


def test_every_waivable_rule_has_a_fix() -> None:
    assert set(FIXES) >= WAIVABLE


def test_what_is_no_text_is_an_escape_in_a_table_and_in_xml() -> None:
    found = Finding("a.py", 1, "import", "ValueError: \x1b[31m \ud800 größe")
    report = Report("3.3.2", "3.13.1", 1.5, ["a.py"], [], [found], [])
    assert r"ValueError: \x1b[31m \ud800 größe" in report.as_table()
    failure = next(ET.fromstring(report.as_junit()).iter("failure"))  # noqa: S314 - our own
    assert failure.get("message") == r"ValueError: \x1b[31m \ud800 größe"
