"""Draws a FleetStatus for a terminal, tier by tier."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ops_cli.console.tables import duration
from ops_cli.fleet.inventory import TIERS
from ops_cli.health.rules import DISK_LIMIT_PERCENT, FleetStatus, Observation

_GOOD, _BAD, _DIM = "green", "bold red", "dim"


def fleet(status: FleetStatus) -> RenderableType:
    """Return the whole picture for a scrolling terminal: the problems last, where the eye ends up."""
    return Group(_hosts(status), Text(), _figures(status), Text(), _verdict(status))


def screen(status: FleetStatus) -> RenderableType:
    """Return the whole picture for a screen that cuts off what is too long: the problems first."""
    return Group(_verdict(status), Text(), _figures(status), Text(), _hosts(status))


def _hosts(status: FleetStatus) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("tier", "host", "address", "units", "versions", "share", "disk"):
        table.add_column(heading, overflow="fold", no_wrap=heading in {"tier", "host", "address", "disk"})
    for tier in TIERS:
        for index, seen in enumerate(seen for seen in status.observations if seen.host.tier == tier):
            table.add_row("" if index else tier, *_host(seen))
    return table


def _host(seen: Observation) -> list[RenderableType]:
    report = seen.report
    if not report:
        reason = "no report" if seen.reachable else "unreachable"
        return [Text(seen.host.name, _BAD), seen.host.address, Text(reason, _BAD)]
    versions = ", ".join(f"{name} {version}" for name, version in report.get("versions", {}).items())
    return [seen.host.name, seen.host.address, _units(report), Text(versions, _DIM), _share(report), _disk(report)]


def _units(report: Any) -> Text:
    lines = []
    for unit in report.get("units", []):
        good = unit["state"] == unit["expected"]
        lines.append(Text(f"{unit['name'].removesuffix('.service')} {unit['state']}", _GOOD if good else _BAD))
    known = {unit["name"] for unit in report.get("units", [])}
    lines += [Text(f"{name} failed", _BAD) for name in report.get("failed_units", []) if name not in known]
    return Text("\n").join(lines)


def _share(report: Any) -> Text:
    share = report.get("share")
    if not share:
        return Text("")
    if share["mounted"] and share["responding"]:
        return Text("mounted", _GOOD)
    return Text("hangs" if share["mounted"] else "not mounted", _BAD)


def _disk(report: Any) -> Text:
    fullest = max((disk["used_percent"] for disk in report.get("disks", [])), default=None)
    if fullest is None:
        return Text("")
    return Text(f"{fullest} %", _BAD if fullest > DISK_LIMIT_PERCENT else "")


def _figures(status: FleetStatus) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("scheduler", _scheduler(status))
    for queue in status.broker.get("queues", []):
        counts = f"{queue['ready']} ready, {queue['unacked']} unacked, {queue['consumers']} consumers"
        table.add_row(f"queue {queue['name']}", counts)
    if database := status.database:
        table.add_row("database", _database(database))
    if vacuum := status.vacuum:
        table.add_row("last vacuum", _vacuum(vacuum))
    if dags := status.dags:
        table.add_row("dags", f"{dags['total']} in all, {dags['import_errors']} import errors")
        # No fault, as somebody paused them; but nothing else says why these runs do not start.
        for dag, runs in dags.get("paused_with_queued_runs", {}).items():
            table.add_row("", f"{dag} is paused, and {runs} run{'s wait' if runs > 1 else ' waits'} in its queue")
    return table


def _scheduler(status: FleetStatus) -> str:
    active, standby = ", ".join(status.active_schedulers), ", ".join(status.standby_schedulers)
    text = f"{active or 'none'} active; standby {standby or 'none'}"
    if not (lease := status.lease):
        return text
    age = "never" if lease["age_s"] is None else f"{lease['age_s']:.1f} s ago"
    return f"{text}, ready: {', '.join(status.ready_schedulers) or 'none'}; epoch {lease['epoch']}, renewed {age}"


def _database(database: Any) -> str:
    states = database["connections"]
    detail = ", ".join(f"{count} {state}" for state, count in states.items())
    return (
        f"PostgreSQL {database['version']}, {database['size_bytes'] / 1e6:.0f} MB, "
        f"{sum(states.values())} of {database['max_connections']} connections ({detail})"
    )


def _vacuum(vacuum: Any) -> Text:
    if vacuum["age_seconds"] is None:
        return Text("none was good yet" if vacuum["error"] else "none yet", _BAD if vacuum["error"] else "")
    age = duration(vacuum["age_seconds"])
    if vacuum["error"]:
        return Text(f"failed; the last good one was {age} ago", _BAD)
    early = ", stopped early" if vacuum["stopped_early"] else ""
    return Text(f"{age} ago, {vacuum['rows']:,} rows{early}")


def _verdict(status: FleetStatus) -> Text:
    if not status.problems:
        return Text(f"{status.env} is healthy", _GOOD)
    lines = [Text(f"{len(status.problems)} problem{'s' * (len(status.problems) > 1)} in {status.env}", _BAD)]
    # The command on a line of its own, never folded, so that it can be copied.
    lines += [Text("- " + problem.replace("; type: ", "\n    ")) for problem in status.problems]
    return Text("\n", no_wrap=True, overflow="ignore").join(lines)
