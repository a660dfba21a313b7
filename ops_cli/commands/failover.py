"""`ops failover`: moves the scheduler to another host, and tells what it cost."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from ops_cli.console import hints, options
from ops_cli.console.errors import OpsError
from ops_cli.console.options import Format, Shared
from ops_cli.console.prompt import confirm
from ops_cli.console.tables import console
from ops_cli.fleet import agent, caller, inventory
from ops_cli.fleet.conversation import RemoteError
from ops_cli.fleet.inventory import Host, Inventory
from ops_cli.fleet.lock import Operation, operation
from ops_cli.scheduler import draw as render
from ops_cli.scheduler import plan as switchover
from ops_cli.scheduler.plan import NotCheckedError, Plan

_ASK_SECONDS = 6
# A scheduler that is asked to end may work at its loop for 30 s before it is killed.
_SILENCE_SECONDS = 60
_DOWN = 3


@click.command()
@click.option("--to", metavar="HOST", help="The host that shall schedule; without it a ready standby.")
@click.option("--reason", default="", help="Why; kept with the lease's history and the audit line.")
@options.flag("--force", "Start even without proof that the old one is fenced.")
@options.dry_run("Say what would be done, and change nothing.")
@options.yes
@options.flag("--history", "Show the last 100 changes of the active one.")
@options.env
@options.output("A table to read, or JSON to parse.")
@click.pass_obj
def failover(  # noqa: PLR0913 - options of a command
    shared: Shared,
    *,
    to: str | None,
    reason: str,
    force: bool,
    dry_run: bool,
    yes: bool,
    history: bool,
    output: Format,
) -> None:
    """Move the scheduler to another host.

    If the active one is healthy it finishes its loop and hands over: a planned switchover. If not, the lease is taken
    from it and the other host shuts it out of the database before it starts: a forced failover. Where that cannot be
    proved, because sessions of the old one do not end, no scheduler starts unless --force says so.

    Refuses with exit code 4 if no standby is healthy or the fleet does not run in mode active_standby, 2 if the target
    is active already or no scheduler, 3 if the database does not answer, 5 if another operation holds the lock. Killed
    in the middle it leaves nothing half done: what was asked for completes, or was never asked for.

    The JSON has the keys kind (switchover or failover), from, to, epoch, fenced (proved), pause_s (from the old
    scheduler's end, or its last renewal, to the new one's start), first_task_s (to the first new task running; null if
    none came within 10 s), orphans (tasks the old one left queued or running) and orphans_adopted_s (from the new one's
    start until all of them are its own). All times are the database's.
    """
    fleet = inventory.load(shared.env, inventory.find_home())
    if history:
        _history(fleet, output)
        return
    switchover.check_arguments(fleet, to, reason)
    talk = console(stderr=True)
    with talk.status("Asking the database and the lease keepers"):
        seen = look(fleet)
    if output is Format.TABLE:
        talk.print(render.topology(seen))
    plan = switchover.decide(seen, to, force=force)
    if dry_run:
        click.echo(json.dumps(plan.as_json()) if output is Format.JSON else plan.consequence)
        return
    confirm(plan.consequence, fleet.env, yes=yes)
    with operation(fleet, "failover", lock="scheduler", reason=reason) as running:
        result = _carry_out(fleet, plan, reason, running, talk)
    if output is Format.JSON:
        click.echo(json.dumps(result))
    else:
        console().print(render.result(result))
    _judge(fleet.env, plan, result)


def look(fleet: Inventory) -> switchover.Situation:
    """Ask every keeper, then the database, whose answer must not grow old while a dead host is waited for.

    Raises NotCheckedError or RefusedError if there is no lease to ask about.
    """
    database, schedulers = fleet.database, fleet.tier("scheduler")
    said = {host.name: answer for host, answer in zip(schedulers, _ask(schedulers, "keeper"), strict=True)}
    lease = switchover.refuse_without_lease(fleet.env, database.name, _ask([database], "status")[0])
    rows = {row["name"]: row for row in lease["hosts"]}
    hosts = [
        switchover.Scheduler(name, rows.get(name, {}), {} if "error" in keeper else keeper, keeper.get("error", ""))
        for name, keeper in said.items()
    ]
    return switchover.Situation(fleet.env, lease, hosts)


def _ask(hosts: Sequence[Host], action: str) -> list[dict[str, Any]]:
    return [_read(reply) for reply in agent.survey(hosts, ["lease", action], timeout_seconds=_ASK_SECONDS)]


def _read(reply: agent.Reply) -> dict[str, Any]:
    if not reply.reachable:
        return {"error": f"{reply.host.name} is unreachable: {reply.error}", "down": True}
    return {"error": reply.error, "down": reply.status == _DOWN} if reply.error else reply.answer


def _carry_out(fleet: Inventory, plan: Plan, reason: str, running: Operation, talk: Console) -> dict[str, Any]:
    """Have the database host move the lease, and say each step as it happens."""
    running.hosts = [host for host in (plan.source, plan.target) if host]
    request = plan.request(why=reason, by=caller.name())
    running.check()
    result: dict[str, Any] = {}
    try:
        with talk.status(Text(f"Moving the scheduler to {plan.target}")) as progress:
            for step in _steps(fleet, request):
                result = step.get("result", result)
                if text := render.step(step):
                    progress.update(Text(text))
                    talk.print(text)
    except KeyboardInterrupt:
        talk.print(f"What was asked for completes by itself; type: {hints.ops(fleet.env, 'status')}")
        raise
    running.result = render.summary(result) + (" (--force)" if plan.force else "")
    return result


def _steps(fleet: Inventory, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    database, stdin = fleet.database, json.dumps(request)
    try:
        yield from agent.lines(database, ["lease", "change"], stdin=stdin, silence_seconds=_SILENCE_SECONDS)
    except RemoteError as error:
        kind = NotCheckedError if error.status == _DOWN else OpsError
        raise kind(f"{error}; type: {hints.ops(fleet.env, 'failover', '--dry-run')}") from None


def _judge(env: str, plan: Plan, result: Mapping[str, Any]) -> None:
    """Raise OpsError if the lease moved and yet not all is well."""
    look = hints.ops(env, "status")
    if result["to"] != plan.target:
        raise OpsError(f"{result['to']} took the lease instead of {plan.target}; type: {look}")
    if result["pause_s"] is None:
        raise OpsError(f"{result['to']} holds the lease, and its scheduler has not begun; type: {look}")
    if result["orphans"] and result["orphans_adopted_s"] is None:
        raise OpsError(f"not all of {result['orphans']} orphaned tasks are adopted yet; type: {look}")


def _history(fleet: Inventory, output: Format) -> None:
    database = fleet.database
    changes = switchover.read_history(fleet.env, database.name, _ask([database], "history")[0])
    if output is Format.JSON:
        click.echo(json.dumps(changes, indent=2))
    else:
        console().print(render.history(changes))
