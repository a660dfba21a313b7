"""`ops archive`: what was taken out of the metadata database, and how it comes back."""

import json
from collections.abc import Sequence

import click

from ops_cli.console import options, prompt
from ops_cli.console.errors import ExitCode, UsageError
from ops_cli.console.options import Format, Shared
from ops_cli.console.tables import console, size
from ops_cli.fleet import agent, caller, inventory
from ops_cli.fleet.inventory import Host, Inventory
from ops_cli.fleet.lock import operation
from ops_cli.metadata import archive as draw

_store = click.option("--store", help="Where the archives are, if not where the inventory says.")
_table = options.output("A table to read, or JSON to parse.")


@click.group()
def archive() -> None:
    """List, read, check, restore and remove archives of metadata."""


@archive.command("list")
@options.env
@_store
@_table
@click.pass_obj
def list_archives(shared: Shared, *, store: str | None, output: Format) -> None:
    """List every archive, the oldest first.

    The JSON has the keys store and archives; each of those archive_id, state, created_at, created_by, cutoff,
    airflow_version, schema_revision, runs, rows and bytes, or error if it cannot be read.
    """
    _, host = _fleet(shared)
    found = agent.result(host, _words(store, "list"))
    draw.show(found, output, draw.listed(found["archives"]))


@archive.command()
@click.argument("archive_id", metavar="ID", help="The archive.")
@options.env
@_store
@_table
@click.pass_obj
def show(shared: Shared, archive_id: str, *, store: str | None, output: Format) -> None:
    """Show one archive: when and why it was taken, from which schema, and its rows by table."""
    _, host = _fleet(shared)
    found = agent.result(host, _words(store, "show", archive_id))
    draw.show(found, output, draw.shown(found))


@archive.command()
@click.argument("sql", metavar="SQL", help="One SELECT in DuckDB's dialect.")
@click.option("--archive", "archive_ids", multiple=True, metavar="ID", help="Only this archive; may be repeated.")
@options.env
@_store
@options.output("A table, JSON lines or CSV.", draw.Rows)
@click.pass_obj
def query(shared: Shared, sql: str, *, archive_ids: Sequence[str], store: str | None, output: draw.Rows) -> None:
    """Answer a SELECT from the archives, without restoring anything.

    Every table is there by its name (dag_run, task_instance, celery.celery_taskmeta, …) with one column more, archive:
    a run that was restored and archived again is in two archives. Values of types that Parquet lacks (JSON, UUID, …)
    are texts. Example: ops archive query "SELECT dag_id, count(*) FROM dag_run GROUP BY dag_id".
    """
    _, host = _fleet(shared)
    only = [word for each in archive_ids for word in ("--archive", each)]
    lines = agent.lines(host, _words(store, "query", *only), stdin=sql)
    columns = next(lines)["columns"]
    draw.show_rows(columns, (row for line in lines for row in line["rows"]), output)


@archive.command()
@click.argument("archive_id", metavar="ID", help="The archive.")
@options.env
@_store
@_table
@click.pass_obj
def verify(shared: Shared, archive_id: str, *, store: str | None, output: Format) -> ExitCode:
    """Read every file of an archive and compare it with what was written; exits with 4 if anything differs."""
    _, host = _fleet(shared)
    found = agent.result(host, _words(store, "verify", archive_id), tell=draw.verifying)
    if output is Format.JSON:
        click.echo(json.dumps(found, indent=2))
    else:
        for problem in found["problems"]:
            click.echo(problem)
        verdict = f"{len(found['problems'])} problems" if found["problems"] else "as written"
        click.echo(f"{archive_id}: {found['files']} files, {found['rows']:,} rows, {size(found['bytes'])}: {verdict}")
    return ExitCode.CHECK_FAILED if found["problems"] else ExitCode.DONE


@archive.command()
@click.option("--archive", "archive_id", metavar="ID", help="The whole archive of this id.")
@click.option("--run", nargs=2, metavar="DAG_ID RUN_ID", help="One run, from the newest archive with it.")
@click.option(
    "--keep-for",
    metavar="DURATION",
    default="30d",
    show_default=True,
    help="No vacuum takes the restored runs before this is over.",
)
@options.dry_run("Say what would happen; change nothing.")
@options.yes
@options.env
@_store
@_table
@click.pass_obj
def restore(  # noqa: PLR0913 - options of a command
    shared: Shared,
    *,
    archive_id: str | None,
    run: tuple[str, str] | None,
    keep_for: str,
    store: str | None,
    dry_run: bool,
    yes: bool,
    output: Format,
) -> None:
    """Put archived rows back into the metadata database, equal to what was taken, with their ids.

    A run that is there is left as it is, so an interrupted restore is simply typed again. It refuses, by name: a column
    that does not fit the present schema, a run whose place another has taken, a row whose parent is gone, a file that
    is not what was written. The archive stays.

    The JSON has the keys tables, rows, runs, present, seconds, rows_per_s and dry_run.
    """
    target = chosen(archive_id, run)
    fleet, host = _fleet(shared)
    words = _words(store, "restore", *target, "--keep-for", keep_for)
    plan = agent.result(host, [*words, "--dry-run"], tell=draw.restoring)
    if dry_run or not plan["rows"]:
        draw.show(plan, output, draw.restored(plan, "would be restored"))
        return
    console(stderr=True).print(draw.restored(plan, "would be restored"))
    prompt.confirm(f"{plan['rows']:,} rows go back into the metadata database on {host.name}.", fleet.env, yes=yes)
    with operation(fleet, "archive restore", lock="metadata", reason=" ".join(target)) as running:
        running.hosts = [host.name]
        done = agent.result(host, words, tell=draw.restoring)
        running.result = f"{done['runs']} runs, {done['rows']:,} rows"
    draw.show(done, output, draw.restored(done, "restored"))


@archive.command()
@click.option("--older-than", metavar="DURATION", help="Archives begun longer ago than this, as in 365d.")
@click.option("--archive", "archive_ids", multiple=True, metavar="ID", help="This archive; may be repeated.")
@options.dry_run("Say what would happen; change nothing.")
@options.yes
@options.env
@_store
@_table
@click.pass_obj
def prune(  # noqa: PLR0913 - options of a command
    shared: Shared,
    *,
    older_than: str | None,
    archive_ids: Sequence[str],
    store: str | None,
    dry_run: bool,
    yes: bool,
    output: Format,
) -> None:
    """Remove archives for good.

    An interrupted removal is finished by the next one with --older-than. The JSON has the keys pruned, bytes and
    dry_run.
    """
    if bool(older_than) == bool(archive_ids):
        raise UsageError("say what to remove: --older-than 365d, or --archive ID")
    fleet, host = _fleet(shared)
    what = ["--older-than", older_than] if older_than else [w for each in archive_ids for w in ("--archive", each)]
    words = _words(store, "prune", *what)
    plan = agent.result(host, [*words, "--dry-run"])
    if dry_run or not plan["pruned"]:
        draw.show(plan, output, draw.listed(plan["pruned"]))
        return
    console(stderr=True).print(draw.listed(plan["pruned"]))
    count = len(plan["pruned"])
    prompt.confirm(
        f"{count} archives, {size(plan['bytes'])}, are removed for good: nobody can restore them.", fleet.env, yes=yes
    )
    with operation(fleet, "archive prune", lock="metadata", reason=" ".join(what)) as running:
        running.hosts = [host.name]
        done = agent.result(host, words)
        running.result = ", ".join(each["archive_id"] for each in done["pruned"])
    draw.show(done, output, draw.listed(done["pruned"]))


def chosen(archive_id: str | None, run: tuple[str, str] | None) -> list[str]:
    """Return the agent's words for what to restore; raise UsageError unless it is one thing."""
    if bool(archive_id) == bool(run):
        raise UsageError("say what to restore: --run DAG_ID RUN_ID, or --archive ID")
    return ["--run", *run] if run else ["--archive", str(archive_id)]


def _fleet(shared: Shared) -> tuple[Inventory, Host]:
    fleet = inventory.load(shared.env, inventory.find_home())
    return fleet, fleet.database


def _words(store: str | None, *action: str) -> list[str]:
    return ["archive", "--who", caller.name(), *(["--store", store] if store else []), *action]
