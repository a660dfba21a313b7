"""`ops rollback`: an earlier release serves again, verified like a deploy."""

import json

import click

from ops_cli.console import hints, options, prompt
from ops_cli.console.errors import OpsError
from ops_cli.console.options import Format, Shared
from ops_cli.console.steps import Steps
from ops_cli.dags import changes, stranded
from ops_cli.dags.deployment import Deployment
from ops_cli.dags.hosts import connected, find
from ops_cli.dags.rollout import Expected, Result, Rollout
from ops_cli.fleet import inventory
from ops_cli.fleet.lock import operation


@click.command()
@click.argument("release", default="", help="The release, or the beginning of its id; the previous one.")
@options.yes
@options.dry_run("Say what would change; change nothing.")
@options.flag("--force", stranded.FORCE)
@options.env
@options.output("Words to read, or one JSON object.")
@click.pass_obj
def rollback(shared: Shared, release: str, *, yes: bool, dry_run: bool, force: bool, output: Format) -> None:  # noqa: PLR0913
    """Put an earlier release back into service; runs in flight finish on the code they began with.

    Nothing is validated again, because it has served before. A DAG that moves to another file while runs of it are
    unfinished is refused, as by ops deploy. Every host copies the release if it no longer has it, the
    flip is verified in the database, and a release that cannot serve is taken back, with exit code 1. The JSON is that
    of ops deploy.
    """
    fleet = inventory.load(shared.env, inventory.find_home())
    done = Deployment(Result(""))
    lock = operation(fleet, "rollback", lock="dags", reason=release)
    with lock as held, connected(fleet) as hosts, Steps().shown() as steps:
        steps.now("asking what serves now")
        listed = hosts.links()
        wanted = find(listed["releases"], release, fleet.env) if release else listed["previous"]
        if not wanted:
            raise OpsError(f"there is no previous release; type: {hints.ops(fleet.env, 'releases list')}")
        if wanted == listed["current"]:
            raise OpsError(f"{wanted} serves already; type: {hints.ops(fleet.env, 'releases list')}")
        old, new = hosts.known(listed["current"]), hosts.show(wanted)
        done.changes = changes.between(old, new, hosts.served()["dags"])
        done.result = Result(wanted, listed["current"])
        steps.rest()
        for line in done.changes.lines():
            steps.note(line)
        for line in stranded.refuse(hosts, done.changes, fleet.env, force=force):
            steps.note(f"warning: {line}")
            done.forced = True
        if dry_run:
            held.result = "dry run"
        else:
            prompt.confirm(f"{fleet.env}: {wanted} serves instead of {listed['current']}.", fleet.env, yes=yes)
            roll = Rollout(hosts, steps.now, held.check, fleet.env)
            try:
                roll.warm(done.result)
                roll.serve(done.result, Expected.of(new, done.changes.affected), Expected.of(old))
            except BaseException as error:
                done.error = str(error) or "interrupted"
                if output is Format.JSON:
                    click.echo(json.dumps(done.as_json()))
                raise
            held.hosts = [host.host for host in done.result.hosts if host.reachable]
            held.result = f"done: {wanted} after {listed['current']}{', forced' if done.forced else ''}"
    if output is Format.JSON:
        click.echo(json.dumps(done.as_json()))
    elif dry_run:
        click.echo(f"{wanted} would serve; nothing was changed")
    else:
        seconds = done.result.verified_seconds or 0.0
        click.echo("\n".join([*done.result.warnings, f"{wanted} serves, verified {seconds:.1f} s after the flip"]))
