"""Decides from the hosts' reports whether the fleet is healthy; pure, so that every rule is tested without SSH."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ops_cli.console import hints
from ops_cli.console.errors import ExitCode
from ops_cli.fleet.inventory import Host

DISK_LIMIT_PERCENT = 90
# Fencing takes milliseconds, and a scheduler's first heartbeat follows within a second.
_TAKE_OVER_SECONDS = 10

# Parts of the database's report that have a place of their own in the JSON.
_TOLD_ELSEWHERE = frozenset({"dags", "lease", "schedulers"})
# Two nights in a row may be missed: the third is a trend.
VACUUM_LIMIT_SECONDS = 3 * 86400

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Observation:
    """One host as seen now: its `ops-agent status` report, or why there is none."""

    host: Host
    reachable: bool
    report: Report
    error: str = ""


@dataclass(frozen=True)
class FleetStatus:
    """The whole environment as seen now."""

    env: str
    observations: Sequence[Observation]
    here: Sequence[str] = ()
    """What is wrong on the machine that asks."""

    @cached_property
    def problems(self) -> list[str]:
        """Return one line for each thing that is wrong: what, where, and the next command to type."""
        lines = [line for seen in self.observations for line in _host_problems(self.env, seen)]
        rules = (_share_problems, _queue_problems, _scheduler_problems, _dag_problems, _vacuum_problems)
        return [*lines, *(line for rule in rules for line in rule(self)), *self.here]

    @property
    def exit_code(self) -> ExitCode:
        """An unreachable host wins over a degraded fleet: what it runs is unknown."""
        if any(not seen.reachable for seen in self.observations):
            return ExitCode.UNREACHABLE
        return ExitCode.CHECK_FAILED if self.problems else ExitCode.DONE

    @property
    def lease(self) -> Report:
        """The scheduler lease; empty unless the schedulers run in mode active_standby."""
        lease = self.database.get("lease") or {}
        return {} if lease.get("suspended") else lease

    @property
    def mode(self) -> str | None:
        """How the schedulers share the work: airflow_scheduler_mode as the fleet really is, None if that is unknown."""
        if not self.database:
            return None
        many = "active_active" if self.wanted_schedulers > 1 else "single"
        return "active_standby" if self.lease else many

    @property
    def wanted_schedulers(self) -> int:
        """How many hosts shall run the scheduler's unit."""
        units = [unit for seen in self.observations for unit in seen.report.get("units", [])]
        return sum(unit["name"] == "airflow-scheduler.service" and unit["expected"] == "active" for unit in units)

    @property
    def beating_schedulers(self) -> list[str]:
        """Names of the hosts whose scheduler has a fresh heartbeat in the metadata database."""
        return [_host_name(self, name) for name in self.database.get("schedulers") or []]

    @property
    def active_schedulers(self) -> list[str]:
        """Names of the hosts that schedule: whoever holds the lease, without one all whose heartbeat is fresh."""
        if self.lease:
            return [self.lease["holder"]] if self.lease["live"] else []
        return self.beating_schedulers

    @property
    def ready_schedulers(self) -> list[str]:
        """Names of the standbys that would take the lease at once: both the database and their keepers say so."""
        keepers = {seen.host.name: seen.report.get("keeper") or {} for seen in self.observations if seen.reachable}
        rows = {row["name"]: row for row in self.lease.get("hosts", [])}
        return [
            name for name in self.standby_schedulers if rows.get(name, {}).get("ready") and keepers[name].get("ready")
        ]

    @property
    def standby_schedulers(self) -> list[str]:
        """Names of the other reachable scheduler hosts."""
        active = self.active_schedulers
        hosts = [seen.host for seen in self.observations if seen.reachable]
        return [host.name for host in hosts if host.tier == "scheduler" and host.name not in active]

    @property
    def database(self) -> Report:
        """What the database host's probe found; empty if there is no answer."""
        return self._first("postgres")

    @property
    def broker(self) -> Report:
        """What the broker host's probe found; empty if there is no answer."""
        return self._first("rabbitmq")

    @property
    def dags(self) -> Report:
        """DAG count and import errors; empty on a fleet without Airflow."""
        return self.database.get("dags") or {}

    @property
    def vacuum(self) -> Report:
        """How the last `ops vacuum` or nightly vacuum went; empty on a fleet without archiving."""
        return self._first("vacuum")

    def _first(self, probe: str) -> Report:
        return next((seen.report[probe] for seen in self.observations if seen.report.get(probe)), {})

    def as_json(self) -> dict[str, Any]:
        """Return the document that `ops status --format json` prints."""
        return {
            "env": self.env,
            "healthy": not self.problems,
            "problems": self.problems,
            "scheduler": {
                "active": next(iter(self.active_schedulers), None),
                "standby": self.standby_schedulers,
                "mode": self.mode,
                "ready": self.ready_schedulers,
                "epoch": self.lease.get("epoch"),
                "lease_age_s": self.lease.get("age_s"),
            },
            "hosts": [_host_json(seen) for seen in self.observations],
            "queues": [dict(queue) for queue in self.broker.get("queues", [])],
            "database": {
                **{key: value for key, value in self.database.items() if key not in _TOLD_ELSEWHERE},
                "last_vacuum": dict(self.vacuum),
            },
            "dags": {
                "total": self.dags.get("total"),
                "import_errors": self.dags.get("import_errors"),
                "import_error_files": self.dags.get("import_error_files", []),
                "paused_with_queued_runs": self.dags.get("paused_with_queued_runs", {}),
            },
        }


def _host_json(seen: Observation) -> dict[str, Any]:
    return {
        "name": seen.host.name,
        "tier": seen.host.tier,
        "address": seen.host.address,
        "reachable": seen.reachable,
        "units": [{"name": unit["name"], "state": unit["state"]} for unit in seen.report.get("units", [])],
        "failed_units": seen.report.get("failed_units", []),
        "versions": seen.report.get("versions", {}),
        "share": seen.report.get("share"),
        "disks": seen.report.get("disks", []),
    }


def _type(env: str, hosts: str, command: str) -> str:
    return f"type: {hints.on_hosts(env, hosts, command)}"


def _host_problems(env: str, seen: Observation) -> Iterator[str]:
    name, report = seen.host.name, seen.report
    if not seen.reachable:
        look = f"type: {hints.ping(env, name)}"
        yield f"{name} ({seen.host.address}) is unreachable: {_line(seen.error)}; {look}"
        return
    if seen.error:
        repair = hints.playbook(env, f"--tags ops_agent --limit {name}")
        yield f"{name}: ops-agent gave no report ({_line(seen.error)}); type: {repair}"
        return
    yield from _unit_problems(env, name, report)
    for disk in report.get("disks", []):
        if disk["used_percent"] > DISK_LIMIT_PERCENT:
            look = _type(env, name, f"du -xh --max-depth=2 --threshold=200M {disk['path']}")
            yield f"{name}: the disk of {disk['path']} is {disk['used_percent']} % full; {look}"
    wrong = {unit["name"] for unit in report.get("units", []) if unit["state"] != unit["expected"]}
    # A unit that is down explains its mount and its probe: nobody is told twice of one cause.
    if (share := report.get("share")) and not share["mounted"] and share["unit"] not in wrong:
        look = _type(env, name, f"systemctl restart {share['unit']}")
        yield f"{name}: the DAG share is not mounted at {share['path']}; {look}"
    for probe, error in report.get("errors", {}).items():
        if not wrong:
            yield f"{name}: the {probe} probe failed: {_line(error)}; {_type(env, name, 'ops-agent status')}"


def _share_problems(status: FleetStatus) -> Iterator[str]:
    # A share that hangs does so on every host that mounts it: one line for all of them.
    hanging = [
        seen.host.name
        for seen in status.observations
        if (share := seen.report.get("share")) and share["mounted"] and not share["responding"]
    ]
    if hanging:
        servers = ", ".join(seen.host.name for seen in status.observations if seen.host.tier == "share")
        look = _type(status.env, "share", "systemctl --failed")
        yield f"{servers}: the DAG share does not respond on {', '.join(hanging)}; {look}"
    refusing: dict[str, list[str]] = {}
    for seen in status.observations:
        if refusal := (seen.report.get("share") or {}).get("refusal"):
            refusing.setdefault(refusal, []).append(seen.host.name)
    for refusal, hosts in refusing.items():
        yield f"{', '.join(hosts)}: the current release is refused: {_line(refusal)}"


def _unit_problems(env: str, name: str, report: Report) -> Iterator[str]:
    expected = set()
    for unit in report.get("units", []):
        expected.add(unit["name"])
        if unit["state"] != unit["expected"]:
            look = _type(env, name, f"journalctl -n 50 -u {unit['name']}")
            yield f"{name}: {unit['name']} is {unit['state']}, should be {unit['expected']}; {look}"
    for unit_name in report.get("failed_units", []):
        if unit_name not in expected:
            yield f"{name}: {unit_name} has failed; {_type(env, name, f'journalctl -n 50 -u {unit_name}')}"


def _queue_problems(status: FleetStatus) -> Iterator[str]:
    broker = next((seen.host.name for seen in status.observations if seen.report.get("rabbitmq")), "")
    consumers = {queue["name"]: queue["consumers"] for queue in status.broker.get("queues", [])}
    for queue in status.broker.get("expected_queues", []):
        if queue not in consumers:
            mend = f"type: {hints.playbook(status.env, '--tags rabbitmq')}"
            yield f"{broker}: queue {queue} is missing, what is sent to it is lost; {mend}"
        elif not consumers[queue]:
            look = _type(status.env, "worker", "systemctl is-active airflow-worker")
            yield f"{broker}: queue {queue} has no consumer, its tasks wait; {look}"
    for alarm in status.broker.get("alarms", []):
        look = _type(status.env, broker, "rabbitmq-diagnostics alarms")
        yield f"{broker}: RabbitMQ blocks publishers, alarm {alarm}; {look}"


def _scheduler_problems(status: FleetStatus) -> Iterator[str]:
    if not status.database:
        return
    beating = status.beating_schedulers
    wanted = 1 if status.lease else max(1, status.wanted_schedulers)
    hosts = ", ".join(seen.host.name for seen in status.observations if seen.host.tier == "scheduler")
    look = _type(status.env, "scheduler", "journalctl -n 50 -u airflow-scheduler")
    if status.lease:
        yield from _lease_problems(status, look)
    elif not beating:
        yield f"no scheduler is active on {hosts}: none has a fresh heartbeat in the database; {look}"
    if beating and len(beating) != wanted:
        look = _type(status.env, "scheduler", "systemctl status --lines=0 airflow-scheduler")
        yield f"{len(beating)} schedulers are active, {' and '.join(beating)}, should be {wanted}; {look}"


def _lease_problems(status: FleetStatus, look: str) -> Iterator[str]:
    lease = status.lease
    holder, epoch = lease["holder"], lease["epoch"]
    if not holder:
        yield f"no scheduler is active: nobody holds the lease since epoch {epoch}; {look}"
        return
    if not lease["live"]:
        yield f"no scheduler is active: {holder}'s lease, epoch {epoch}, was renewed {lease['age_s']:.0f} s ago; {look}"
    elif lease["held_s"] > _TAKE_OVER_SECONDS and not lease["fenced"]:
        move = f"type: {hints.ops(status.env, 'failover', '--dry-run')}"
        yield f"{holder} holds the lease and starts no scheduler: the old one is not proved to be fenced; {move}"
    elif lease["held_s"] > _TAKE_OVER_SECONDS and holder not in status.beating_schedulers:
        yield f"{holder} holds the lease, but its scheduler has no fresh heartbeat in the database; {look}"
    others = [
        seen.host.name for seen in status.observations if seen.host.tier == "scheduler" and seen.host.name != holder
    ]
    if others and not status.ready_schedulers:
        yield f"no standby is ready to take over from {holder}: {', '.join(others)} cannot; {look}"


def _dag_problems(status: FleetStatus) -> Iterator[str]:
    if count := status.dags.get("import_errors"):
        files = ", ".join(status.dags.get("import_error_files", []))
        host = next(iter(status.active_schedulers), "scheduler")
        look = _type(status.env, host, "airflow dags list-import-errors")
        yield f"{count} DAG file{'s' * (count > 1)} cannot be imported: {files}; {look}"


def _vacuum_problems(status: FleetStatus) -> Iterator[str]:
    # The unit that failed is named already: nobody is told twice of one cause.
    if any("metadata-vacuum.service" in seen.report.get("failed_units", []) for seen in status.observations):
        return
    host = next((seen.host.name for seen in status.observations if seen.report.get("vacuum")), "")
    look = _type(status.env, host, "journalctl -n 50 -u metadata-vacuum")
    if error := status.vacuum.get("error"):
        yield f"{host}: the last vacuum of the metadata database failed: {_line(error)}; {look}"
    elif (age := status.vacuum.get("age_seconds")) and age > VACUUM_LIMIT_SECONDS:
        yield f"{host}: the last good vacuum of the metadata database was {age // 86400} days ago; {look}"


def _host_name(status: FleetStatus, hostname: str) -> str:
    """Airflow records what the host calls itself: a short name, a full one, or an address."""
    hosts = [seen.host for seen in status.observations]
    exact = [host.name for host in hosts if hostname in {host.name, host.address}]
    # Of two hosts that differ in their domains alone, a short name means neither.
    alike = [host.name for host in hosts if _same_host(hostname, host.name)]
    return exact[0] if exact else alike[0] if len(alike) == 1 else hostname


def _same_host(one: str, other: str) -> bool:
    short = "." not in one or "." not in other
    return short and one.split(".", 1)[0].lower() == other.split(".", 1)[0].lower()


def _line(text: str) -> str:
    return " ".join(text.split())
