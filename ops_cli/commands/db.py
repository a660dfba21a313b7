"""`ops db analyze`: what the metadata database spends its time and space on."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ops_cli.console import options
from ops_cli.console.options import Format, Shared
from ops_cli.console.tables import console, duration, size
from ops_cli.fleet import agent, inventory

_Cells = Callable[[Any], Sequence[str]]


@click.group()
def db() -> None:
    """Look into the metadata database."""


@db.command()
@options.env
@options.output("A report to read, or JSON to parse.")
@click.pass_obj
def analyze(shared: Shared, *, output: Format) -> None:
    """Report the slowest statements, indexes that are unused or missing, bloat, wraparound and connections.

    Reads the server's own statistics and no table, so it is safe at any time. Bloat is an estimate. The JSON has the
    keys database, size_bytes, counted_since, statements, unused_indexes, unindexed_foreign_keys, sequential_scans,
    table_bloat, index_bloat, wraparound and connections.
    """
    fleet = inventory.load(shared.env, inventory.find_home())
    report = agent.result(fleet.database, ["analyze"])
    if output is Format.JSON:
        click.echo(json.dumps(report, indent=2))
        return
    console().print(draw(report))


def draw(report: agent.Line) -> RenderableType:
    """Return the whole report; a section without a finding says so in a line."""
    parts: list[RenderableType] = [_head(report)]
    for title, key, headings, cells in _SECTIONS:
        parts += [Text(), Text(title, "bold")]
        if not report[key]:
            parts.append(Text("none", "dim"))
            continue
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in report[key]:
            # As texts: rich takes the index of an array in a plain string for markup.
            table.add_row(*map(Text, cells(row)))
        parts.append(table)
    return Group(*parts)


def _head(report: agent.Line) -> Text:
    age = report["wraparound"]
    oldest = ", ".join(f"{each['name']} {each['transactions']:,}" for each in age["oldest_tables"])
    since = report["counted_since"] or "it was made"
    percent = 100 * age["transactions"] / age["limit"]
    # Half way to where the server refuses to write, VACUUM is not keeping up.
    wraparound = Text(
        f"wraparound: {age['transactions']:,} transactions old, {percent:.1f} % of what is possible; "
        f"freezing begins at {age['freeze_at']:,}; oldest: {oldest}",
        "bold red" if age["transactions"] > age["limit"] / 2 else "",
    )
    return Text(f"{report['database']}: {size(report['size_bytes'])}, counted since {since}\n").append(wraparound)


def _statement(row: Any) -> Sequence[str]:
    return (
        f"{row['percent'] or 0:.1f} %",
        f"{row['total_seconds']:,} s",
        f"{row['calls']:,}",
        f"{row['mean_ms']:,} ms",
        row["query"],
    )


def _connection(row: Any) -> Sequence[str]:
    oldest = row["oldest_transaction_seconds"]
    return (
        row["login"],
        row["client"],
        row["application"],
        str(row["sessions"]),
        str(row["active"]),
        str(row["idle_in_transaction"]),
        "" if oldest is None else duration(oldest),
    )


def _bloat(row: Any) -> Sequence[str]:
    return row["name"], size(row["bytes"]), size(row["wasted"]), f"{100 * row['wasted'] / row['bytes']:.0f} %"


_BLOAT_HEADINGS = ("name", "size", "to be had back", "share")
_SECTIONS: tuple[tuple[str, str, Sequence[str], _Cells], ...] = (
    ("Slowest statements", "statements", ("share", "in all", "calls", "mean", "statement"), _statement),
    (
        "Indexes that nobody used",
        "unused_indexes",
        ("table", "index", "size"),
        lambda row: (row["table"], row["name"], size(row["bytes"])),
    ),
    (
        "Foreign keys without an index",
        "unindexed_foreign_keys",
        ("table", "columns", "rows", "constraint"),
        lambda row: (row["table"], row["columns"], f"{row['rows']:,}", row["name"]),
    ),
    (
        "Large tables that are read from end to end",
        "sequential_scans",
        ("table", "times", "rows each", "by index"),
        lambda row: (row["table"], f"{row['scans']:,}", f"{row['rows_per_scan']:,}", f"{row['index_scans']:,}"),
    ),
    ("Bloat of tables, estimated", "table_bloat", _BLOAT_HEADINGS, _bloat),
    ("Bloat of indexes, estimated", "index_bloat", _BLOAT_HEADINGS, _bloat),
    (
        "Connections",
        "connections",
        ("login", "from", "application", "sessions", "active", "idle in transaction", "oldest transaction"),
        _connection,
    ),
)
