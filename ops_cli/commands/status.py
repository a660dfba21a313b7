"""`ops status`: what runs where, and what is wrong."""

import json
import time

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ops_cli.console import options
from ops_cli.console.errors import ExitCode, UsageError
from ops_cli.console.options import Format, Shared
from ops_cli.console.tables import console
from ops_cli.dags import last_tried
from ops_cli.fleet import agent, inventory
from ops_cli.health import draw, rules

# Every probe of the agent is bounded by 2 s; the rest is for a loaded machine.
_AGENT_TIMEOUT_SECONDS = 10
_WATCH_SECONDS = 2


@click.command()
@options.env
@options.output("A table to read, or JSON to parse.")
@options.flag("--watch", "Ask again every two seconds until Ctrl-C.")
@click.pass_obj
def status(shared: Shared, *, output: Format, watch: bool) -> ExitCode:
    """Show what runs on every host, tier by tier, and what is wrong.

    Asks all hosts at once; a host that is down delays the answer by at most 5 seconds. Exits with 0 if the fleet is
    healthy, 4 if something is wrong, 3 if a host is unreachable.

    Healthy means: every unit is in the state the inventory asks for and none has failed, exactly one scheduler has a
    fresh heartbeat (in mode active_active, each) and in mode active_standby it holds the lease and another host is
    ready to take over, every pool's queue has a consumer, the share is mounted and answers wherever DAGs are read, no
    DAG file fails to import, no disk is over 90 % full. The JSON has the keys env, healthy, problems, scheduler
    (active, standby, mode, ready, epoch, lease_age_s), hosts, queues, database and dags.
    """
    out = console()
    if watch and (output is Format.JSON or not out.is_terminal):
        raise UsageError("--watch draws on a terminal: leave it out to get one answer")
    fleet = inventory.load(shared.env, inventory.find_home())
    if watch:
        _watch(fleet, out)
    with console(stderr=True).status(Text(f"Asking {len(fleet.hosts)} hosts")):
        answer = survey(fleet)
    if output is Format.JSON:
        click.echo(json.dumps(answer.as_json(), indent=2))
    else:
        out.print(draw.fleet(answer))
    return answer.exit_code


def survey(fleet: inventory.Inventory) -> rules.FleetStatus:
    """Ask every host of the fleet for its report."""
    replies = agent.survey(fleet.hosts, ["status", "--json"], timeout_seconds=_AGENT_TIMEOUT_SECONDS)
    seen = [rules.Observation(reply.host, reply.reachable, reply.answer, reply.error) for reply in replies]
    return rules.FleetStatus(fleet.env, seen, [*filter(None, [last_tried.failed_here(fleet.env)])])


def _watch(fleet: inventory.Inventory, out: Console) -> None:
    with Live(console=out, auto_refresh=False, screen=True) as live:
        while True:
            live.update(draw.screen(survey(fleet)), refresh=True)
            time.sleep(_WATCH_SECONDS)
