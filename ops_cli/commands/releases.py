"""`ops releases`: what was deployed, by whom, which serves, and what still runs on each."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import click

from ops_cli.console import options, prompt
from ops_cli.console.options import Format, Shared
from ops_cli.console.tables import console
from ops_cli.dags import changes, draw
from ops_cli.dags.hosts import ReleaseHosts, connected, find
from ops_cli.fleet import inventory
from ops_cli.fleet.lock import operation


@click.group(invoke_without_command=True)
@options.env
@click.pass_context
def releases(ctx: click.Context) -> None:
    """List, compare and remove DAG releases; without a verb, list them."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, output=Format.TABLE)


@releases.command("list")
@options.env
@options.output("Words to read, or JSON to parse.")
@click.pass_obj
def list_(shared: Shared, *, output: Format) -> None:
    """List the releases, the newest first, with author, message, age, unfinished runs, and which one serves."""
    with _hosts(shared) as hosts:
        listed = hosts.all()
    if output is Format.JSON:
        click.echo(json.dumps(listed, indent=2))
    else:
        console().print(draw.table(listed["releases"], datetime.now(UTC)))


@releases.command()
@click.argument("release", help="The release, or the beginning of its id.")
@options.env
@options.output("Words to read, or JSON to parse.")
@click.pass_obj
def show(shared: Shared, release: str, *, output: Format) -> None:
    """Show one release: commit, author, where it was deployed from, what the gate said, and its DAGs."""
    with _hosts(shared) as hosts:
        manifest = hosts.show(find(hosts.all()["releases"], release, hosts.fleet.env))
    click.echo(json.dumps(manifest, indent=2) if output is Format.JSON else draw.described(manifest))


@releases.command()
@click.argument("old", help="The release to compare with.")
@click.argument("new", help="The release to compare.")
@options.env
@options.output("Words to read, or JSON to parse.")
@click.pass_obj
def diff(shared: Shared, old: str, new: str, *, output: Format) -> None:
    """Show what changes from one release to another, by DAG and task."""
    with _hosts(shared) as hosts:
        listed = hosts.all()["releases"]
        before, after = (hosts.show(find(listed, wanted, hosts.fleet.env)) for wanted in (old, new))
        found = changes.between(before, after, hosts.served()["dags"])
    if output is Format.JSON:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        click.echo("\n".join(found.lines()) or "no DAG differs")


@releases.command()
@click.option("--keep", type=click.IntRange(min=1), required=True, help="Keep so many of the newest.")
@click.option(
    "--clearable-days",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Keep what runs began on that ended so many days ago or less.",
)
@options.dry_run("Say what would be removed and what would stay; change nothing.")
@options.yes
@options.env
@options.output("Words to read, or JSON to parse.")
@click.pass_obj
def prune(  # noqa: PLR0913 - the command line's own words
    shared: Shared, *, keep: int, clearable_days: float, dry_run: bool, yes: bool, output: Format
) -> None:
    """Remove old releases; one that serves, served before, or that a run needs stays, and it says why.

    A run needs its release until --clearable-days after its end. A task that is cleared later fails at once, and says
    how to run it on the current release.
    """
    fleet = inventory.load(shared.env, inventory.find_home())
    with operation(fleet, "releases prune", lock="dags") as held, connected(fleet) as hosts:
        plan = hosts.prune(keep, clearable_days, dry_run=True)
        held.hosts, held.result = [hosts.publisher.name], "dry run"
        if plan["removed"] and not dry_run:
            prompt.confirm(f"{fleet.env}: {_count(plan)} removed; no rollback leads to them.", fleet.env, yes=yes)
            held.check()
            plan = hosts.prune(keep, clearable_days, dry_run=False)
            held.result = f"removed {', '.join(plan['removed']) or 'none'}"
    if output is Format.JSON:
        click.echo(json.dumps(plan | {"dry_run": dry_run}, indent=2))
    else:
        click.echo("\n".join(_pruned(plan, "would remove" if dry_run else "removed")) or "there are no releases")


@releases.command()
@click.argument("release", help="The release, or the beginning of its id.")
@options.dry_run("Say what would be signed; change nothing.")
@options.yes
@options.env
@options.output("Words to read, or JSON to parse.")
@click.pass_obj
def sign(shared: Shared, release: str, *, dry_run: bool, yes: bool, output: Format) -> None:
    """Sign a release that was made before releases were signed, so that hosts take it again.

    Whoever could write the share could have made it: look at it first (ops releases show, diff). A new deploy of the
    same commit needs no such trust.
    """
    fleet = inventory.load(shared.env, inventory.find_home())
    with operation(fleet, "releases sign", lock="dags", reason=release) as held, connected(fleet) as hosts:
        key = hosts.signer()
        wanted = find(hosts.links()["releases"], release, fleet.env)
        text = hosts.manifest(wanted)
        held.hosts, held.result = [hosts.publisher.name], "dry run"
        if output is Format.TABLE:
            click.echo(draw.described(json.loads(text)))
        if not dry_run:
            prompt.confirm(f"{fleet.env}: every host takes {wanted} from here on.", fleet.env, yes=yes)
            held.check()
            hosts.sign(wanted, key.sign(text))
            held.result = f"signed {wanted}"
    if output is Format.JSON:
        click.echo(json.dumps({"release": wanted, "signed": not dry_run, "dry_run": dry_run}))
    else:
        click.echo(f"{wanted} {'would be' if dry_run else 'is'} signed")


def _count(plan: Mapping[str, Any]) -> str:
    removed, kept = len(plan["removed"]), len(plan["kept"])
    return f"{removed} of {removed + kept} releases are"


def _pruned(plan: Mapping[str, Any], verb: str) -> list[str]:
    lines = [f"{verb} {release}" for release in plan["removed"]]
    return lines + [f"kept {kept['id']}: {', '.join(kept['reasons'])}" for kept in plan["kept"]]


def _hosts(shared: Shared) -> AbstractContextManager[ReleaseHosts]:
    return connected(inventory.load(shared.env, inventory.find_home()))
