"""Draws what `ops archive` answers."""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ops_cli.console.options import Format
from ops_cli.console.tables import console, size
from ops_cli.fleet import agent


class Rows(StrEnum):
    """How the rows of a query are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def show(found: Any, output: Format, drawn: RenderableType) -> None:
    """Print an answer as it was asked for."""
    if output is Format.JSON:
        click.echo(json.dumps(found, indent=2))
        return
    console().print(drawn)


def show_rows(names: Sequence[str], rows: Iterable[Sequence[Any]], output: Rows) -> None:
    """Print the rows of a query, as they come where the form allows it."""
    if output is Rows.CSV:
        writer = csv.writer(sys.stdout)
        writer.writerow(names)
        writer.writerows(rows)
    elif output is Rows.JSON:
        for row in rows:
            click.echo(json.dumps(dict(zip(names, row, strict=True))))
    else:
        table = columns(*names)
        for row in rows:
            _add(table, *("" if value is None else str(value) for value in row))
        show(None, Format.TABLE, table)


def verifying(event: agent.Line) -> str:
    """Say how far a verification is."""
    return f"{event['files']} files, {event['rows']:,} rows read"


def restoring(event: agent.Line) -> str:
    """Say how far a restore is; an archive that had to be left out is named for good."""
    if event["event"] == "skipped":
        console(stderr=True).print(f"left out: {event['error']}")
        return ""
    return f"{event['rows']:,} rows of {event['runs']:,} runs"


def listed(archives: Sequence[agent.Line]) -> RenderableType:
    """Draw one line an archive."""
    table = columns("archive", "state", "taken by", "runs", "rows", "bytes", "up to")
    for each in archives:
        if error := each.get("error"):
            _add(table, each["archive_id"], each["state"], error)
            continue
        figures = f"{each['runs']:,}", f"{each['rows']:,}", size(each["bytes"]), str(each["cutoff"])[:10]
        _add(table, each["archive_id"], each["state"], each["created_by"], *figures)
    return table if archives else Text("none")


def shown(found: agent.Line) -> RenderableType:
    """Draw one archive, table by table."""
    table = columns("table", "rows", "bytes", "files")
    for each in found["tables"]:
        _add(table, each["name"], f"{each['rows']:,}", size(each["bytes"]), str(each["files"]))
    table.add_section()
    table.add_row("in all", f"{found['rows']:,}", size(found["bytes"]), "")
    head = f"{found['archive_id']}, {found['state']}, taken by {found['created_by']} at {found['created_at']}"
    origin = (
        f"Airflow {found['airflow_version']}, schema revision {found['schema_revision']}, "
        f"PostgreSQL {found['postgres_version']}\n{found['location']}"
    )
    return Group(Text(head), table, Text(origin))


def restored(found: agent.Line, verb: str) -> RenderableType:
    """Draw what was put back, or would be."""
    table = columns("table", verb)
    for each in found["tables"]:
        _add(table, each["name"], f"{each['restored']:,}")
    present = f", {found['present']:,} were there already" if found["present"] else ""
    total = Text(f"{found['runs']:,} runs, {found['rows']:,} rows{present}")
    return Group(table, total) if found["tables"] else total


def columns(*headings: str) -> Table:
    """Return an empty table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    # As texts: rich takes what stands in square brackets in a plain string for markup.
    table.add_row(*map(Text, cells))
