"""Draws the scheduler hosts, the steps and the result of `ops failover` for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from ops_cli.scheduler.plan import Situation

_HISTORY = ("epoch", "at", "kind", "from", "to", "gap", "pause", "first task", "orphans", "by", "why")


def topology(seen: Situation) -> Table:
    """Return all scheduler hosts and the lease, as the operator shall see them before he agrees."""
    table = _table("host", "state", "epoch", "renewed", "may write", "sessions", "note")
    for host in seen.schedulers:
        active = host.row.get("active")
        table.add_row(
            host.name,
            Text(host.state, {"active": "green", "standby": "green"}.get(host.state, "bold red")),
            str(seen.lease["epoch"]) if active else "",
            seconds(seen.lease["age_s"], " ago") if active else "",
            "yes" if host.row.get("writes") else "no",
            str(host.row.get("sessions", "")),
            Text(host.error if active or host.ready else host.trouble),
        )
    return table


def step(said: Mapping[str, Any]) -> str:
    """Return what to tell about one step of a change, if anything."""
    match said:
        case {"event": "ended", "host": str(host)}:
            return f"{host} holds the lease no longer"
        case {"event": "taken", "host": host, "epoch": epoch}:
            return f"{host} has taken the lease, epoch {epoch}"
        case {"event": "fenced", "proved": True}:
            return f"The old one is shut out of the database, in {said.get('milliseconds')} ms"
        case {"event": "fenced"}:
            return "The proof that the old one is shut out was waived"
        case {"event": "started", "pause_s": pause, "orphans": orphans}:
            return f"Scheduling again after {seconds(pause)}; {orphans} tasks to adopt; waiting for the first new task"
    return ""


def summary(done: Mapping[str, Any]) -> str:
    """Return the result in one line, for the audit log."""
    return (
        f"{done['kind']} from {done['from']} to {done['to']}, epoch {done['epoch']}, pause {seconds(done['pause_s'])}"
    )


def result(done: Mapping[str, Any]) -> Table:
    """Return what happened and what it cost."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    adopted = f", adopted in {seconds(done['orphans_adopted_s'])}" if done["orphans_adopted_s"] is not None else ""
    rows = {
        done["kind"]: f"{done['from'] or 'nobody'} -> {done['to']}, epoch {done['epoch']}",
        "fenced": "yes" if done["fenced"] else "not proved (--force)",
        "pause": seconds(done["pause_s"]),
        "first task": seconds(done["first_task_s"]) if done["first_task_s"] is not None else "none came within 10 s",
        "orphans": f"{done['orphans']}{adopted}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def history(changes: Sequence[Mapping[str, Any]]) -> Table:
    """Return the changes of the lease, newest first."""
    table = _table(*_HISTORY)
    for change in changes:
        fenced = "" if change["fenced"] else " (fence not proved)"
        figures = [seconds(change[name]) for name in ("gap_s", "pause_s", "first_task_s")]
        orphans = "" if change["orphans"] is None else str(change["orphans"])
        words = [str(change[name] or "") for name in ("from", "to")]
        # An operator's words may hold anything, line breaks and markup too.
        why = Text(" ".join(str(change["why"] or "").split()))
        epoch, kind = str(change["epoch"]), change["kind"] + fenced
        table.add_row(epoch, change["at"], kind, *words, *figures, orphans, Text(change["by"] or ""), why)
    return table


def seconds(value: float | None, after: str = "") -> str:
    """Return a time, or nothing if it was not measured."""
    return "" if value is None else f"{value:.2f} s{after}"


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading not in {"note", "why", "by"})
    return table
