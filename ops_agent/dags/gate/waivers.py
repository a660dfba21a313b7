"""Waivers: a comment in a DAG file that says which rule does not hold for it, and why.

`# airfleet: waive tags because the portal lists it by id` is for every DAG of the file, and
`# airfleet: waive retries, execution-timeout for nightly_load because the vendor forbids a second call` for one.
"""

from __future__ import annotations

import io
import re
import tokenize
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ops_agent.dags.gate.findings import FIXES, Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# What is waived must still work: a file that cannot be imported is not a matter of taste.
WAIVABLE = frozenset(
    {
        "catchup",
        "execution-timeout",
        "naming",
        "output",
        "owner",
        "retries",
        "slow",
        "tags",
        "top-level-database",
        "top-level-metadata",
        "top-level-network",
        "top-level-process",
        "unstable",
    }
)
_COMMENT = re.compile(r"#\s*airfleet:\s*(?P<text>.*)")
_WAIVER = re.compile(
    r"waive\s+(?P<rules>[a-z-]+(?:\s*,\s*[a-z-]+)*)(?:\s+for\s+(?P<dag>\S+))?\s+because\s+(?P<why>\S.*)"
)


@dataclass(frozen=True)
class Waiver:
    """One rule that does not hold in a file, for one DAG or (an empty id) for all of them."""

    file: str
    line: int
    rule: str
    dag_id: str
    reason: str

    def covers(self, finding: Finding) -> bool:
        """Return whether the finding is what this waives."""
        same = (self.file, self.rule) == (finding.file, finding.rule)
        return same and self.dag_id in {"", finding.dag_id}


def read(file: str, source: str) -> tuple[list[Waiver], list[Finding]]:
    """Return the waivers of a file, and a finding for each comment that means to be one and is not."""
    waivers: list[Waiver] = []
    findings: list[Finding] = []
    for line, text in _comments(source):
        match = _WAIVER.fullmatch(text.strip())
        if not match:
            findings.append(Finding(file, line, "waiver", f"not a waiver, or without a reason: {text.strip()!r}"))
            continue
        for rule in re.split(r"\s*,\s*", match["rules"]):
            if rule in WAIVABLE:
                waivers.append(Waiver(file, line, rule, match["dag"] or "", match["why"]))
            else:
                known = "cannot be waived" if rule in FIXES else "is no rule"
                findings.append(Finding(file, line, "waiver", f"{rule} {known}"))
    return waivers, findings


def apply(findings: Iterable[Finding], waivers: Sequence[Waiver]) -> tuple[list[Finding], list[Waiver]]:
    """Return the findings that stand and the waivers that were used; an unused one is a warning of its own."""
    standing, used = [], set()
    for finding in findings:
        covering = [waiver for waiver in waivers if waiver.covers(finding)]
        used.update(covering)
        if not covering:
            standing.append(finding)
    for waiver in waivers:
        if waiver not in used:
            text = f"waives {waiver.rule}, which nothing here breaks: remove it"
            standing.append(Finding(waiver.file, waiver.line, "waiver", text, Severity.WARNING, waiver.dag_id))
    return standing, [replace(waiver) for waiver in waivers if waiver in used]


def _comments(source: str) -> list[tuple[int, str]]:
    # At a NUL the tokenizer ends with a SystemError; nobody can import such a file.
    if "airfleet:" not in source or "\0" in source:
        return []
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError, ValueError):
        # The import says what is wrong with such a file.
        return []
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    return [(token.start[0], match["text"]) for token in comments if (match := _COMMENT.match(token.string))]
