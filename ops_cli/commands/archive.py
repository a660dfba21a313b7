"""`ops archive`: what was taken out of the metadata database, and how it comes back."""

import json
from typing import Annotated

import typer
from rich.console import Console

from ops_cli.console import prompt
from ops_cli.console.errors import ExitCode, OpsError, UsageError
from ops_cli.console.options import Format
from ops_cli.console.tables import size
from ops_cli.fleet import agent, inventory
from ops_cli.fleet.inventory import Host, Inventory
from ops_cli.fleet.lock import operation
from ops_cli.metadata import archive

app = typer.Typer(help="List, read, check, restore and remove archives of metadata.", rich_markup_mode=None)

Env = Annotated[str | None, typer.Option(help="The environment, if not given before the command.")]
Store = Annotated[str | None, typer.Option("--store", help="Where the archives are, if not where the inventory says.")]
Output = Annotated[Format, typer.Option("--format", help="A table to read, or JSON to parse.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command("list")
def list_archives(ctx: typer.Context, *, env: Env = None, store: Store = None, output: Output = Format.TABLE) -> None:
    """List every archive, the oldest first.

    The JSON has the keys store and archives; each of those archive_id, state, created_at, created_by, cutoff,
    airflow_version, schema_revision, runs, rows and bytes, or error if it cannot be read.
    """
    _, host = _fleet(ctx, env)
    found = agent.result(host, _words(store, "list"))
    archive.show(found, output, archive.listed(found["archives"]))


@app.command()
def show(
    ctx: typer.Context,
    archive_id: Annotated[str, typer.Argument(metavar="ID")],
    *,
    env: Env = None,
    store: Store = None,
    output: Output = Format.TABLE,
) -> None:
    """Show one archive: when and why it was taken, from which schema, and its rows by table."""
    _, host = _fleet(ctx, env)
    found = agent.result(host, _words(store, "show", archive_id))
    archive.show(found, output, archive.shown(found))


@app.command()
def query(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT in DuckDB's dialect.")],
    *,
    archive_id: Annotated[
        list[str] | None, typer.Option("--archive", help="Only this archive; may be repeated.")
    ] = None,
    env: Env = None,
    store: Store = None,
    output: Annotated[archive.Rows, typer.Option("--format", help="A table, JSON lines or CSV.")] = archive.Rows.TABLE,
) -> None:
    """Answer a SELECT from the archives, without restoring anything.

    Every table is there by its name (dag_run, task_instance, celery.celery_taskmeta, …) with one column more, archive:
    a run that was restored and archived again is in two archives. Values of types that Parquet lacks (JSON, UUID, …)
    are texts. Example: ops archive query "SELECT dag_id, count(*) FROM dag_run GROUP BY dag_id".
    """
    _, host = _fleet(ctx, env)
    only = [word for each in archive_id or [] for word in ("--archive", each)]
    lines = agent.lines(host, _words(store, "query", *only), stdin=sql)
    columns = next(lines)["columns"]
    archive.show_rows(columns, (row for line in lines for row in line["rows"]), output)


@app.command()
def verify(
    ctx: typer.Context,
    archive_id: Annotated[str, typer.Argument(metavar="ID")],
    *,
    env: Env = None,
    store: Store = None,
    output: Output = Format.TABLE,
) -> None:
    """Read every file of an archive and compare it with what was written; exits with 4 if anything differs."""
    _, host = _fleet(ctx, env)
    found = agent.result(host, _words(store, "verify", archive_id), tell=archive.verifying)
    if output is Format.JSON:
        typer.echo(json.dumps(found, indent=2))
    else:
        for problem in found["problems"]:
            typer.echo(problem)
        verdict = f"{len(found['problems'])} problems" if found["problems"] else "as written"
        typer.echo(f"{archive_id}: {found['files']} files, {found['rows']:,} rows, {size(found['bytes'])}: {verdict}")
    raise typer.Exit(ExitCode.CHECK_FAILED if found["problems"] else ExitCode.DONE)


@app.command()
def restore(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    *,
    archive_id: Annotated[str | None, typer.Option("--archive", help="The whole archive of this id.")] = None,
    run: Annotated[
        tuple[str, str] | None,
        typer.Option("--run", metavar="DAG_ID RUN_ID", help="One run, from the newest archive with it."),
    ] = None,
    keep_for: Annotated[str, typer.Option(help="No vacuum takes the restored runs before this is over.")] = "30d",
    env: Env = None,
    store: Store = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """Put archived rows back into the metadata database, equal to what was taken, with their ids.

    A run that is there is left as it is, so an interrupted restore is simply typed again. It refuses, by name: a column
    that does not fit the present schema, a run whose place another has taken, a row whose parent is gone, a file that
    is not what was written. The archive stays.

    The JSON has the keys tables, rows, runs, present, seconds, rows_per_s and dry_run.
    """
    target = chosen(archive_id, run)
    fleet, host = _fleet(ctx, env)
    words = _words(store, "restore", *target, "--keep-for", keep_for)
    plan = agent.result(host, [*words, "--dry-run"], tell=archive.restoring)
    if dry_run or not plan["rows"]:
        archive.show(plan, output, archive.restored(plan, "would be restored"))
        return
    Console(stderr=True).print(archive.restored(plan, "would be restored"))
    prompt.confirm(f"{plan['rows']:,} rows go back into the metadata database on {host.name}.", fleet.env, yes=yes)
    with operation(fleet, "archive restore", lock="metadata", reason=" ".join(target)) as running:
        running.hosts = [host.name]
        done = agent.result(host, words, tell=archive.restoring)
        running.result = f"{done['runs']} runs, {done['rows']:,} rows"
    archive.show(done, output, archive.restored(done, "restored"))


@app.command()
def prune(  # noqa: PLR0913 - options of a command
    ctx: typer.Context,
    *,
    older_than: Annotated[str | None, typer.Option(help="Archives begun longer ago than this, as in 365d.")] = None,
    archive_id: Annotated[list[str] | None, typer.Option("--archive", help="This archive; may be repeated.")] = None,
    env: Env = None,
    store: Store = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """Remove archives for good.

    An interrupted removal is finished by the next one with --older-than. The JSON has the keys pruned, bytes and
    dry_run.
    """
    if bool(older_than) == bool(archive_id):
        raise UsageError("say what to remove: --older-than 365d, or --archive ID")
    fleet, host = _fleet(ctx, env)
    what = ["--older-than", older_than] if older_than else [w for each in archive_id or [] for w in ("--archive", each)]
    words = _words(store, "prune", *what)
    plan = agent.result(host, [*words, "--dry-run"])
    if dry_run or not plan["pruned"]:
        archive.show(plan, output, archive.listed(plan["pruned"]))
        return
    Console(stderr=True).print(archive.listed(plan["pruned"]))
    count = len(plan["pruned"])
    prompt.confirm(
        f"{count} archives, {size(plan['bytes'])}, are removed for good: nobody can restore them.", fleet.env, yes=yes
    )
    with operation(fleet, "archive prune", lock="metadata", reason=" ".join(what)) as running:
        running.hosts = [host.name]
        done = agent.result(host, words)
        running.result = ", ".join(each["archive_id"] for each in done["pruned"])
    archive.show(done, output, archive.listed(done["pruned"]))


def chosen(archive_id: str | None, run: tuple[str, str] | None) -> list[str]:
    """Return the agent's words for what to restore; raise UsageError unless it is one thing."""
    if bool(archive_id) == bool(run):
        raise UsageError("say what to restore: --run DAG_ID RUN_ID, or --archive ID")
    return ["--run", *run] if run else ["--archive", str(archive_id)]


def _fleet(ctx: typer.Context, env: str | None) -> tuple[Inventory, Host]:
    fleet = inventory.load(env or ctx.obj["env"], inventory.find_home())
    hosts = fleet.tier("database")
    if not hosts:
        raise OpsError(f"inventories/{fleet.env}: no host in group database")
    return fleet, hosts[0]


def _words(store: str | None, *action: str) -> list[str]:
    return ["archive", "--who", agent.who(), *(["--store", store] if store else []), *action]
