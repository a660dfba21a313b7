"""The gate's report: the document that a release's manifest keeps, and the same as a table and as JUnit."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from ops_agent.dags.gate.findings import FIXES, Severity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops_agent.dags.gate.findings import Dag, Finding
    from ops_agent.dags.gate.waivers import Waiver

FORMAT = 1
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Report:
    """Everything that one run of the gate says about a tree."""

    airflow: str
    python: str
    seconds: float
    files: Sequence[str]
    dags: Sequence[Dag]
    findings: Sequence[Finding]
    waived: Sequence[Waiver]

    @property
    def errors(self) -> list[Finding]:
        """The findings that refuse the tree."""
        return [finding for finding in self.findings if finding.severity is Severity.ERROR]

    def as_json(self) -> dict[str, Any]:
        """Return the document."""
        return {
            "format": FORMAT,
            "ok": not self.errors,
            "airflow": self.airflow,
            "python": self.python,
            "seconds": round(self.seconds, 2),
            "files": list(self.files),
            "errors": len(self.errors),
            "warnings": len(self.findings) - len(self.errors),
            "findings": [finding.as_json() for finding in self.findings],
            "waived": [asdict(waiver) for waiver in self.waived],
            "dags": [asdict(dag) for dag in sorted(self.dags, key=lambda dag: (dag.dag_id, dag.file))],
        }

    def as_table(self) -> str:
        """Return the findings for a terminal, errors last, and a line that sums them up."""
        lines = []
        for finding in sorted(self.findings, key=lambda found: found.severity is Severity.ERROR):
            lines.append(f"{finding.severity:7} {finding.file}:{finding.line} {finding.rule}: {finding.message}")
            lines.append(f"        {FIXES[finding.rule]}")
        lines += [f"waived  {w.file}:{w.line} {w.rule}: {w.reason}" for w in self.waived]
        warnings = len(self.findings) - len(self.errors)
        found = f"{_count(len(self.errors), 'error')}, {_count(warnings, 'warning')}"
        lines.append(f"{len(self.files)} files, {len(self.dags)} DAGs, {found} in {self.seconds:.1f} s")
        return _printable("\n".join(lines)) + "\n"

    def as_junit(self) -> str:
        """Return JUnit's XML: a test case for each file; errors are failures, warnings its output."""
        by_file: dict[str, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            by_file[finding.file].append(finding)
        broken = {finding.file for finding in self.errors}
        totals = {"tests": str(len({*self.files, *by_file})), "failures": str(len(broken))}
        suite = ET.Element("testsuite", {"name": "airfleet gate", "time": f"{self.seconds:.2f}", **totals})
        for file in sorted({*self.files, *by_file}):
            case = ET.SubElement(suite, "testcase", {"classname": "dags", "name": file, "file": file})
            for finding in by_file[file]:
                text = f"{finding.file}:{finding.line}: {finding.message}; {FIXES[finding.rule]}"
                if finding.severity is Severity.ERROR:
                    attributes = {"type": finding.rule, "message": finding.message}
                    ET.SubElement(case, "failure", attributes).text = text
                else:
                    out = case.find("system-out")
                    out = ET.SubElement(case, "system-out") if out is None else out
                    out.text = (out.text or "") + f"warning: {text}\n"
        ET.indent(suite)
        return _printable(ET.tostring(suite, encoding="unicode", xml_declaration=True)) + "\n"


def _printable(text: str) -> str:
    """Write as an escape what neither a terminal nor XML takes; a DAG's id may hold it."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'s' * (number != 1)}"
