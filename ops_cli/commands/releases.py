"""`ops releases`: what was deployed, by whom, which serves, and what still runs on each."""

import json
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Annotated

import typer

from ops_cli.console import prompt
from ops_cli.console.options import Format
from ops_cli.console.tables import console
from ops_cli.dags import changes, draw
from ops_cli.dags.hosts import ReleaseHosts, connected, find
from ops_cli.fleet import inventory
from ops_cli.fleet.lock import operation

app = typer.Typer(help="List, compare and remove DAG releases.", add_completion=False, rich_markup_mode=None)

_Env = Annotated[str | None, typer.Option("--env", help="The environment, if not given before the command.")]
_Output = Annotated[Format, typer.Option("--format", help="Words to read, or JSON to parse.")]


@app.callback(invoke_without_command=True)
def releases(ctx: typer.Context, env: _Env = None) -> None:
    """List, compare and remove DAG releases; without a verb, list them."""
    ctx.obj["env"] = env or ctx.obj["env"]
    if ctx.invoked_subcommand is None:
        list_(ctx)


@app.command("list")
def list_(ctx: typer.Context, env: _Env = None, output: _Output = Format.TABLE) -> None:
    """List the releases, the newest first, with author, message, age, unfinished runs, and which one serves."""
    with _hosts(ctx, env) as hosts:
        listed = hosts.all()
    if output is Format.JSON:
        typer.echo(json.dumps(listed, indent=2))
    else:
        console().print(draw.table(listed["releases"], datetime.now(UTC)))


@app.command()
def show(
    ctx: typer.Context,
    release: Annotated[str, typer.Argument(help="The release, or the beginning of its id.")],
    env: _Env = None,
    output: _Output = Format.TABLE,
) -> None:
    """Show one release: commit, author, where it was deployed from, what the gate said, and its DAGs."""
    with _hosts(ctx, env) as hosts:
        manifest = hosts.show(find(hosts.all()["releases"], release))
    typer.echo(json.dumps(manifest, indent=2) if output is Format.JSON else draw.described(manifest))


@app.command()
def diff(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(help="The release to compare with.")],
    new: Annotated[str, typer.Argument(help="The release to compare.")],
    env: _Env = None,
    output: _Output = Format.TABLE,
) -> None:
    """Show what changes from one release to another, by DAG and task."""
    with _hosts(ctx, env) as hosts:
        listed = hosts.all()["releases"]
        found = changes.between(hosts.show(find(listed, old)), hosts.show(find(listed, new)), hosts.served()["dags"])
    if output is Format.JSON:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        typer.echo("\n".join(found.lines()) or "no DAG differs")


@app.command()
def prune(  # noqa: PLR0913, PLR0917
    ctx: typer.Context,
    keep: Annotated[int, typer.Option(min=1, help="Keep so many of the newest.")],
    clearable_days: Annotated[
        float, typer.Option(min=0, help="Keep what runs began on that ended so many days ago or less.")
    ] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,  # noqa: FBT002
    env: _Env = None,
    output: _Output = Format.TABLE,
) -> None:
    """Remove old releases; one that serves, served before, or that a run needs stays, and it says why.

    A run needs its release until --clearable-days after its end. A task that is cleared later fails at once, and says
    how to run it on the current release.
    """
    fleet = inventory.load(env or ctx.obj["env"], inventory.find_home())
    with operation(fleet, "releases prune", lock="dags") as held, connected(fleet) as hosts:
        there = len(hosts.all()["releases"])
        prompt.confirm(
            f"{fleet.env}: of {there} releases all but {keep} and those in use are removed.", fleet.env, yes=yes
        )
        held.check()
        pruned = hosts.prune(keep, clearable_days)
        held.hosts, held.result = [hosts.publisher.name], f"removed {', '.join(pruned['removed']) or 'none'}"
    if output is Format.JSON:
        typer.echo(json.dumps(pruned, indent=2))
    else:
        lines = [f"removed {release}" for release in pruned["removed"]]
        lines += [f"kept    {kept['id']}: {', '.join(kept['reasons'])}" for kept in pruned["kept"]]
        typer.echo("\n".join(lines) or "there are no releases")


@app.command()
def sign(
    ctx: typer.Context,
    release: Annotated[str, typer.Argument(help="The release, or the beginning of its id.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,  # noqa: FBT002
    env: _Env = None,
) -> None:
    """Sign a release that was made before releases were signed, so that hosts take it again.

    Whoever could write the share could have made it: look at it first (ops releases show, diff). A new deploy of the
    same commit needs no such trust.
    """
    fleet = inventory.load(env or ctx.obj["env"], inventory.find_home())
    with operation(fleet, "releases sign", lock="dags", reason=release) as held, connected(fleet) as hosts:
        key = hosts.signer()
        wanted = find(hosts.links()["releases"], release)
        text = hosts.manifest(wanted)
        typer.echo(draw.described(json.loads(text)))
        prompt.confirm(f"{fleet.env}: every host takes {wanted} from here on.", fleet.env, yes=yes)
        held.check()
        hosts.sign(wanted, key.sign(text))
        held.hosts, held.result = [hosts.publisher.name], f"signed {wanted}"
    typer.echo(f"{wanted} is signed")


def _hosts(ctx: typer.Context, env: str | None) -> AbstractContextManager[ReleaseHosts]:
    return connected(inventory.load(env or ctx.obj["env"], inventory.find_home()))
