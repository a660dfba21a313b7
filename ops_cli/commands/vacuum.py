"""`ops vacuum`: move old finished runs out of the metadata database into an archive."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ops_cli.console import hints, options, prompt
from ops_cli.console.errors import UsageError
from ops_cli.console.options import Format, Shared
from ops_cli.console.tables import console, duration, size
from ops_cli.fleet import agent, caller, inventory
from ops_cli.fleet.lock import operation


@dataclass(frozen=True)
class Request:
    """What was asked for; None and empty leave it to the policy of the inventory."""

    older_than: str | None = None
    policy: str | None = None
    dag: str | None = None
    keep_last: int | None = None
    tables: str | None = None
    archive_to: str | None = None
    no_archive: bool = False
    max_duration: str | None = None
    reclaim: bool = False

    def words(self, *, dry_run: bool) -> list[str]:
        """Return the words for `ops-agent`; the policy itself goes by standard input."""
        words = ["vacuum", "--who", caller.name()]
        for name, value in (
            ("older-than", self.older_than),
            ("policy", None if self.policy is None else "-"),
            ("dag", self.dag),
            ("keep-last", self.keep_last),
            ("tables", self.tables),
            ("archive-to", self.archive_to),
            ("max-duration", self.max_duration),
        ):
            words += [] if value is None else [f"--{name}", str(value)]
        flags = (("no-archive", self.no_archive), ("reclaim", self.reclaim), ("dry-run", dry_run))
        return [*words, *(f"--{name}" for name, given in flags if given)]

    def consequence(self, plan: agent.Line, host: str) -> str:
        """Say what going on means."""
        rows = f"{sum(table['rows'] for table in plan['tables']):,} rows"
        if self.no_archive:
            return f"{rows} are deleted from the metadata database on {host} for good: nothing is archived."
        return f"{rows} move from the metadata database on {host} into an archive, from which they can be put back."


@click.command()
@options.env
@click.option("--older-than", metavar="DURATION", help="Age from the end of a run, as in 90d; else the policy's.")
@click.option("--policy", type=click.Path(path_type=Path), help="A policy in YAML instead of the inventory's.")
@click.option("--dag", metavar="GLOB", help="Only the DAGs whose id fits this glob.")
@click.option("--keep-last", type=click.IntRange(min=1), help="So many newest runs of each DAG stay.")
@click.option("--tables", metavar="NAMES", help="Only these, by comma: dag_run, log, job, …")
@click.option("--archive-to", metavar="STORE", help="Directory of the database host, or s3://bucket/prefix.")
@options.flag("--no-archive", "Delete for good.")
@click.option("--max-duration", metavar="DURATION", help="Stop between two batches after so long.")
@options.flag("--reclaim", "Give freed space back to the disk, online.")
@options.dry_run("Count and estimate; change nothing.")
@options.yes
@options.output("A table to read, or JSON to parse.")
@click.pass_obj
def vacuum(  # noqa: PLR0913 - options of a command
    shared: Shared,
    *,
    older_than: str | None,
    policy: Path | None,
    dag: str | None,
    keep_last: int | None,
    tables: str | None,
    archive_to: str | None,
    no_archive: bool,
    max_duration: str | None,
    reclaim: bool,
    dry_run: bool,
    yes: bool,
    output: Format,
) -> None:
    """Move old finished runs, and old rows that stand alone, out of the metadata database into an archive.

    Never taken: a run that is not over, the newest run of a DAG, a run of a backfill that is not over. What may go and
    when says the policy of the inventory (metadata_archive_policy) unless options say otherwise. Unless --yes is given
    it counts first and asks; it yields to the scheduler while it works, and can be interrupted at any time: the next
    one goes on.

    The JSON has the keys archive_id, tables, longest_transaction_s, rows_per_s, reclaimed_bytes, resumed, stopped_early
    and unsettled (places out of reach, where a killed vacuum may have left an archive open); with --dry-run, tables
    with rows, bytes and seconds.
    """
    text = _read(policy) if policy else None
    request = Request(older_than, text, dag, keep_last, tables, archive_to, no_archive, max_duration, reclaim)
    fleet = inventory.load(shared.env, inventory.find_home())
    host = fleet.database
    # To count is to read as much as to move: whoever has agreed already does not wait for it.
    if dry_run or not yes:
        plan = agent.result(host, request.words(dry_run=True), stdin=text or "", tell=describe)
        console(stderr=not dry_run or output is Format.JSON).print(planned(plan))
        if dry_run:
            if output is Format.JSON:
                click.echo(json.dumps(plan, indent=2))
            return
        if any(table["rows"] for table in plan["tables"]) or plan.get("unsettled"):
            prompt.confirm(request.consequence(plan, host.name), fleet.env, yes=yes)
    with operation(fleet, "vacuum", lock="metadata") as running:
        running.hosts = [host.name]
        done = agent.result(host, request.words(dry_run=False), stdin=text or "", tell=describe)
        running.result = f"archive {done.get('archive_id')}: {total(done['tables'], 'deleted'):,.0f} rows"
    if output is Format.JSON:
        click.echo(json.dumps(done, indent=2))
    else:
        console().print(finished(done, fleet.env))


def describe(event: agent.Line) -> str:
    """Return one line on how far it is."""
    if event["event"] == "count":
        return f"counting: {event['rows']:,} rows could go"
    if event["event"] == "progress":
        table = str(event["table"]).removeprefix("public.")
        return f"{table}: {event['rows']:,} rows moved in {duration(event['seconds'])}"
    subject = event.get("table") or event.get("archive_id") or ""
    return f"{event['event']} {subject}".strip()


def planned(plan: agent.Line) -> Table:
    """Draw what would go."""
    table = _table("table", "rows", "bytes", "time")
    for each in sorted(plan["tables"], key=lambda each: -each["rows"]):
        if each["rows"]:
            table.add_row(Text(each["name"]), f"{each['rows']:,}", size(each["bytes"]), duration(each["seconds"]))
    sums = [total(plan["tables"], key) for key in ("rows", "bytes", "seconds")]
    table.add_section()
    table.add_row("in all", f"{sums[0]:,.0f}", size(sums[1]), duration(sums[2]))
    return table


def finished(done: agent.Line, env: str) -> RenderableType:
    """Draw what went."""
    table = _table("table", "archived", "deleted", "bytes", "time")
    for each in done["tables"]:
        figures = f"{each['archived']:,}", f"{each['deleted']:,}", size(each["bytes"]), duration(each["seconds"])
        table.add_row(Text(each["name"]), *figures)
    notes = [f"archive {done['archive_id']}" if done.get("archive_id") else "nothing was archived"]
    notes.append(f"{done['rows_per_s']:,.0f} rows/s, longest transaction {done['longest_transaction_s']:.3f} s")
    if done.get("reclaimed_bytes"):
        notes.append(f"{size(done['reclaimed_bytes'])} given back to the disk")
    notes += ["went on where a vacuum was interrupted"] if done.get("resumed") else []
    notes += ["stopped before everything was taken: the next one goes on"] if done.get("stopped_early") else []
    notes += [_left_open(url, env) for url in done.get("unsettled", [])]
    return Group(table, Text("\n".join(notes)))


def _left_open(url: str, env: str) -> str:
    settle = hints.ops(env, "vacuum", "--archive-to", url)
    return f"a killed vacuum may have left an archive open in {url}; once it is in reach: {settle}"


def total(tables: Sequence[Any], key: str) -> float:
    """Add one figure of all tables."""
    return sum(float(each[key]) for each in tables)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "table" else "right", no_wrap=True)
    return table


def _read(policy: Path) -> str:
    try:
        return policy.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--policy {policy}: {error.strerror}") from error
