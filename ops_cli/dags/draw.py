"""Draws releases, and what refuses one, for a terminal."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.table import Table

from ops_cli.console import hints
from ops_cli.console.tables import ago


def table(listed: Sequence[Mapping[str, Any]], now: datetime) -> Table:
    """Return the list for a terminal."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "release", "age", "runs", "author", "message"):
        drawn.add_column(heading, no_wrap=heading != "message", overflow="fold")
    for one in listed:
        mark = "current" if one["current"] else "previous" if one["previous"] else ""
        if one.get("error"):
            drawn.add_row(mark, one["id"], "", "", "", f"unusable: {one['error']}", style="red")
            continue
        runs = "?" if one["unfinished_runs"] is None else str(one["unfinished_runs"] or "")
        text = one["message"] + (" (with uncommitted changes)" if one["dirty"] else "")
        style = "green" if one["current"] else None
        drawn.add_row(
            mark, one["id"], ago(one["created"], now), runs, one["author"].partition(" <")[0], text, style=style
        )
    return drawn


def described(manifest: Mapping[str, Any]) -> str:
    """Return a release in words."""
    origin = manifest["source"]
    report = manifest["validation"]
    dags = (report or {}).get("dags", [])
    commit = (manifest["commit"] or "none") + (" with uncommitted changes" if manifest["dirty"] else "")
    gate = f"passed with {report['warnings']} warnings" if report else "not asked"
    rows = {
        "release": manifest["id"],
        "commit": commit,
        "author": manifest["author"],
        "message": manifest["message"],
        "created": manifest["created"],
        "after": manifest["parent"] or "nothing",
        "from": " ".join(filter(None, (origin.get("repository"), origin.get("path"), origin.get("ref")))) or "unknown",
        "deployed by": origin.get("deployed_by", "unknown"),
        "gate": gate,
        "files": str(len(manifest["files"])),
        "DAGs": ", ".join(f"{dag['dag_id']} ({len(dag['tasks'])} tasks)" for dag in dags) or "not known",
    }
    return "\n".join(f"{name:12} {text}" for name, text in rows.items())


def refusals(text: str, env: str) -> str:
    """Return the refusals of a JSON report for an error message: the first few, each with where it is."""
    report = json.loads(text)
    errors = [found for found in report["findings"] if found["severity"] == "error"]
    lines = [f"{found['file']}:{found['line']} {found['rule']}: {found['message']}" for found in errors[:5]]
    if left := len(errors) - len(lines):
        lines.append(f"and {left} more; type: {hints.ops(env, 'validate')} PATH")
    return "\n  ".join(lines)
