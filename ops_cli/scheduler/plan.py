"""Decides whether and how the scheduler lease may move to another host; pure, so that every refusal is tested."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ops_cli.console import hints
from ops_cli.console.errors import ExitCode, OpsError, UsageError
from ops_cli.fleet.inventory import Inventory

# A holder renews every second; two renewals missed and it is not healthy.
_RENEWED_SECONDS = 2.5
# Fencing takes milliseconds. One that has not ended by then is stuck.
_FENCING_SECONDS = 5.0
_LONGEST_REASON = 1000

Report = Mapping[str, Any]


class RefusedError(OpsError):
    """The fleet is not in a state in which the lease may move."""

    exit_code = ExitCode.CHECK_FAILED


class NotCheckedError(OpsError):
    """Whoever could tell does not answer."""

    exit_code = ExitCode.UNREACHABLE


@dataclass(frozen=True)
class Scheduler:
    """One scheduler host: its line in the database, and what its keeper says of itself or why that is unknown."""

    name: str
    row: Report
    keeper: Report
    error: str = ""

    @property
    def ready(self) -> bool:
        """Whether it would take the lease now, by the database and by itself."""
        return bool(self.row.get("ready") and self.keeper.get("ready"))

    @property
    def state(self) -> str:
        """What it is, in one word."""
        if self.row.get("active"):
            return str(self.keeper.get("state") or "active")
        return "standby" if self.ready else "not ready"

    @property
    def trouble(self) -> str:
        """Why it is not a healthy standby."""
        if not self.row:
            return "the database knows no keeper of it: converge role postgres"
        if self.error:
            return self.error
        if reason := self.keeper.get("failure") or (not self.keeper.get("ready") and self.keeper.get("why")):
            return " ".join(str(reason).split())
        seen = self.row.get("seen_s")
        return "its keeper never reported" if seen is None else f"its keeper last reported {seen:.0f} s ago"


@dataclass(frozen=True)
class Situation:
    """The lease and all scheduler hosts, as seen now."""

    env: str
    lease: Report
    schedulers: Sequence[Scheduler]

    @property
    def holder(self) -> str | None:
        """Who holds an unexpired lease."""
        return str(self.lease["holder"]) if self.lease["live"] else None

    @property
    def source(self) -> str | None:
        """Who loses the lease, or has lost it."""
        name: str | None = self.lease["holder"] or self.lease["previous"]
        return name

    def scheduler(self, name: str | None) -> Scheduler:
        """Return the host of that name."""
        return next((host for host in self.schedulers if host.name == name), Scheduler(name or "nobody", {}, {}))


@dataclass(frozen=True)
class Plan:
    """What will be asked of the lease, and why so."""

    kind: str
    source: str | None
    target: str
    epoch: int
    seen: int
    why: str
    force: bool = False

    @property
    def consequence(self) -> str:
        """Tell the operator what will happen."""
        old = self.source or "nobody"
        if self.kind == "waive":
            return (
                f"{self.target} starts its scheduler although it is not proved that {old} is fenced: what a session of "
                f"{old} is committing now is not undone."
            )
        fence = f" {self.target} shuts every other host out of the database before it starts."
        if self.force:
            fence += " Should that take more than 4 s, it starts without the proof (--force)."
        if self.kind == "switchover":
            return (
                f"Planned switchover from {old} to {self.target}: {old} finishes its loop and hands over. Nothing is "
                f"scheduled for about a second; running tasks go on.{fence}"
            )
        return f"Forced failover from {old} to {self.target}: {self.why}.{fence} Running tasks go on."

    def request(self, *, why: str, by: str) -> dict[str, Any]:
        """Return what `ops-agent lease change` is told."""
        asked = {"kind": self.kind, "from": self.source, "to": self.target, "epoch": self.epoch, "seen": self.seen}
        return {**asked, "why": why or f"asked for by {by}", "force": self.force, "by": by}

    def as_json(self) -> dict[str, Any]:
        """Return what `--dry-run --format json` prints."""
        kind = "failover" if self.kind == "waive" else self.kind
        return {"dry_run": True, "kind": kind, "from": self.source, "to": self.target, "epoch": self.epoch + 1}


def check_arguments(fleet: Inventory, to: str | None, reason: str) -> None:
    """Raise UsageError if the target is no scheduler of the fleet or the reason cannot be kept."""
    names = [host.name for host in fleet.tier("scheduler")]
    if to is not None and to not in names:
        known = any(host.name == to for host in fleet.hosts)
        what = f"{to} is no scheduler" if known else f"inventories/{fleet.env} has no host {to}"
        raise UsageError(f"{what}: --to takes one of {', '.join(names)}")
    if len(reason) > _LONGEST_REASON:
        raise UsageError(f"the reason has {len(reason)} characters: {_LONGEST_REASON} are kept")
    try:
        reason.encode()
    except UnicodeEncodeError:
        raise UsageError("the reason is not valid UTF-8") from None


def refuse_without_lease(env: str, database: str, answer: Report) -> Report:
    """Return the lease of the database's answer. Raises NotCheckedError or RefusedError if there is none to move."""
    _refuse_silence(env, database, answer, "who is active, whether a standby is ready, whether the old one is fenced")
    lease: Report | None = answer.get("lease")
    if lease is None:
        raise RefusedError(f"{database} has no scheduler lease; {_converge(env)}")
    if lease["suspended"]:
        raise RefusedError(
            f"the lease is suspended: the schedulers do not run in mode active_standby; {_converge(env)}"
        )
    return lease


def read_history(env: str, database: str, answer: Report) -> list[Report]:
    """Return the changes of the lease, newest first. Raises NotCheckedError or RefusedError if there are none kept."""
    _refuse_silence(env, database, answer, "the lease's history")
    changes: list[Report] | None = answer.get("history")
    if changes is None:
        raise RefusedError(f"{database} has no scheduler lease; {_converge(env)}")
    return changes


def _refuse_silence(env: str, database: str, answer: Report, what: str) -> None:
    if "error" not in answer:
        return
    unknown = f"{answer['error']}. Not checked: {what}. Nothing was changed"
    if answer.get("down"):
        look = hints.on_hosts(env, database, "pg_lsclusters")
        raise NotCheckedError(f"the metadata database on {database} does not answer: {unknown}; type: {look}")
    repair = hints.playbook(env, f"--tags ops_agent --limit {database}")
    raise OpsError(f"{database}: ops-agent gave no answer: {unknown}; type: {repair}")


def _converge(env: str) -> str:
    return (
        f"set airflow_scheduler_mode: active_standby in inventories/{env}/group_vars/all/scheduler.yml and "
        f"type: {hints.playbook(env)}"
    )


def decide(seen: Situation, to: str | None = None, *, force: bool = False) -> Plan:
    """Return the one change that `ops failover` may make now. Raises RefusedError, and UsageError for `to`."""
    lease, holder = seen.lease, seen.holder
    epoch = int(lease["epoch"])
    if holder and not lease["fenced"] and lease["held_s"] < _FENCING_SECONDS:
        raise RefusedError(f"{holder} is just taking over, in epoch {epoch}; type: {hints.ops(seen.env, 'status')}")
    if holder and not lease["fenced"] and to in {None, holder}:
        return _finish(seen, holder, epoch, force=force)
    if holder and to == holder:
        raise UsageError(f"{holder} is active already, in epoch {epoch}: nothing to do")
    target = _target(seen, to)
    if trouble := _trouble(seen):
        return Plan("failover", seen.source, target.name, epoch, epoch, trouble, force)
    if lease["hand_over_to"]:
        next_one = lease["hand_over_to"]
        raise RefusedError(f"{holder} is handing over to {next_one} already; type: {hints.ops(seen.env, 'status')}")
    return Plan("switchover", holder, target.name, epoch, epoch, f"{holder} is healthy", force)


def _finish(seen: Situation, holder: str, epoch: int, *, force: bool) -> Plan:
    """Plan for a holder that has not proved the others fenced: it starts no scheduler before."""
    old = seen.lease["previous"]
    if not force:
        left = sum(host.row.get("sessions") or 0 for host in seen.schedulers)
        raise RefusedError(
            f"{holder} holds the lease and starts no scheduler: it is not proved that {old} is fenced (sessions that "
            f"do not end: {left}). End them on the database host; or, to start without the proof, "
            f"type: {hints.ops(seen.env, 'failover', '--to', holder, '--force')}"
        )
    return Plan("waive", old, holder, epoch - 1, epoch, "the fence is not proved", force)


def _target(seen: Situation, to: str | None) -> Scheduler:
    others = [host for host in seen.schedulers if host.name != seen.holder]
    chosen = [host for host in others if to in {None, host.name}]
    for host in sorted(chosen, key=lambda host: host.name == seen.source):
        if host.ready:
            return host
    reasons = "; ".join(f"{host.name}: {host.trouble}" for host in chosen) or "there is no other scheduler host"
    look = hints.on_hosts(seen.env, "scheduler", "journalctl -n 50 -u airflow-scheduler")
    active = f"{seen.holder} is active, in epoch {seen.lease['epoch']}" if seen.holder else "no scheduler is active"
    raise RefusedError(f"{active}, and there is no healthy standby ({reasons}). Nothing was changed; type: {look}")


def _trouble(seen: Situation) -> str:
    """Return why the active scheduler cannot hand over, or nothing if it can."""
    lease = seen.lease
    if not lease["holder"]:
        return "nobody holds the lease"
    if not lease["live"]:
        return f"the lease of {lease['holder']} has expired"
    if lease["age_s"] > _RENEWED_SECONDS:
        return f"{lease['holder']} has not renewed its lease for {lease['age_s']:.1f} s"
    if not lease["fenced"]:
        return f"{lease['holder']} has not proved the others fenced"
    state = seen.scheduler(lease["holder"]).keeper.get("state")
    if state not in {None, "active", "demoting"}:
        return f"the keeper of {lease['holder']} says it is {state}"
    return ""
