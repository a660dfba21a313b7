"""`ops deploy`: a directory of DAG files passes the gate, becomes a release and serves; or nothing changes."""

import json
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click

from ops_cli.console import hints, options, prompt
from ops_cli.console.errors import OpsError
from ops_cli.console.options import Format, Shared
from ops_cli.console.steps import Steps
from ops_cli.dags import changes, draw, git, last_tried, source, stranded, watch
from ops_cli.dags.deployment import Deployment
from ops_cli.dags.hosts import ReleaseHosts, connected
from ops_cli.dags.rollout import Expected, Result, Rollout
from ops_cli.fleet import inventory
from ops_cli.fleet.lock import Operation, operation

_HOUR_SECONDS = 3600


class RefusedError(OpsError):
    """The gate refused the tree; the text has the first findings."""

    of_the_commit = True


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("dags"), help="The directory of DAG files.")
@click.option("--git-ref", default="", help="Deploy this commit, branch or tag, not HEAD.")
@click.option("--git-url", default="", help="Fetch --git-ref, a branch or tag, from there; PATH is within it.")
@click.option(
    "--if-moved",
    type=click.Path(path_type=Path),
    help="With --git-url: only a head that this file does not remember; for a timer.",
)
@click.option("--message", default="", help="What to remember it by; the commit's subject if not given.")
@options.dry_run("Validate and compare; change nothing.")
@click.option(
    "--watch",
    "watch_for",
    default="",
    metavar="DURATION",
    help="Look after it for so long (10m) and roll back if worse.",
)
@options.yes
@options.flag("--allow-dirty", "Deploy uncommitted changes too.")
@options.flag("--force", stranded.FORCE)
@options.env
@options.output("Words to read, or one JSON object.")
@click.pass_obj
def deploy(  # noqa: PLR0913 - options of a command
    shared: Shared,
    path: Path,
    *,
    git_ref: str,
    git_url: str,
    if_moved: Path | None,
    message: str,
    dry_run: bool,
    watch_for: str,
    yes: bool,
    allow_dirty: bool,
    force: bool,
    output: Format,
) -> None:
    """Put a directory of DAG files into service as a new release; runs in flight finish on the code they began with.

    In this order: takes the lock, packs the commit, passes it through the gate (see ops validate), says what changes,
    asks, publishes it on the share, has every host copy it, flips, waits until the database shows every DAG served from
    it. Whatever fails before the flip leaves the old release serving. Whatever fails after it is taken back, and the
    exit code is 1. Refused is a DAG that moves to another file while runs of it are unfinished: their tasks would be
    looked for in the new file, which their release does not have. With --watch, a release is taken back too after whose
    flip DAG files stop importing, take much longer to parse, or tasks fail more often than in the hour before.

    A timer that follows a branch adds --if-moved: nothing is done, and the fleet not asked, while the head is the one
    that was tried last. One that the gate refused, that was taken back or rolled back is not tried again; a failure is
    repeated as one line and exit code 1 until the head moves.

    The JSON has the keys release, previous, added, removed, changed, validated_s, published_s, flipped_s, visible_s
    (flip to all changed DAGs served), verified_s (flip to all DAGs served), hosts, rolled_back and error; a step that
    was not reached is null.
    """
    watch_seconds = watch.duration(watch_for) if watch_for else 0.0
    memory = last_tried.memory(if_moved, git_url, git_ref)
    if memory and not memory.moved():
        return
    fleet = inventory.load(shared.env, inventory.find_home())
    lock: AbstractContextManager[Operation | None] = (
        nullcontext() if dry_run else operation(fleet, "deploy", lock="dags", reason=message)
    )
    done = Deployment(Result(""))
    with lock as held, connected(fleet) as hosts, tempfile.TemporaryDirectory() as work, Steps().shown() as steps:
        job, commit = _Job(hosts, steps, done, held, force=force), ""
        try:
            if not dry_run:
                hosts.signer()
            if git_url:
                steps.now(f"fetching {git.without_login(git_url)}")
                path, git_ref = source.clone(git_url, git_ref, Path(work)) / path, ""
            packed = source.collect(path, Path(work), ref=git_ref, message=message, allow_dirty=allow_dirty)
            commit = packed.commit
            if job.prepare(packed) and not dry_run:
                steps.rest()
                prompt.confirm(job.consequence(), fleet.env, yes=yes)
                job.bring(packed, watch_seconds)
            if memory and not dry_run:
                memory.note(commit)
        except BaseException as error:
            done.error = str(error) or "interrupted"
            if memory and not dry_run:
                memory.note_failure(commit, error)
            if output is Format.JSON:
                click.echo(json.dumps(done.as_json()))
            raise
    if output is Format.JSON:
        click.echo(json.dumps(done.as_json()))
    else:
        click.echo(_said(done, fleet.env, dry_run=dry_run))


class _Job:
    """The steps of one deploy."""

    def __init__(
        self, hosts: ReleaseHosts, steps: Steps, done: Deployment, held: Operation | None, *, force: bool
    ) -> None:
        self.hosts, self.steps, self.done, self.held, self.force = hosts, steps, done, held, force
        self.before: dict[str, Any] = {}
        self.newest: str | None = None
        self.old: dict[str, Any] = {}
        self.report: dict[str, Any] = {}

    def prepare(self, packed: source.Source) -> bool:
        """Validate and compare; return whether there is anything to deploy."""
        self.steps.now("asking what serves now")
        self.before = self.hosts.health(_HOUR_SECONDS)
        links = self.hosts.links()
        current = links["current"]
        self.newest = next((one["id"] for one in links["releases"]), current)
        self.old = self.hosts.known(current)
        self.done.result.previous = current
        if self.old.get("digest") == packed.digest:
            self.done.result.release = str(current)
            return False
        self.steps.now("validating every DAG file")
        started = time.monotonic()
        text, refused = self.hosts.validate(packed.archive, self.before, keep=packed.digest)
        self.done.validated_seconds = time.monotonic() - started
        if refused:
            why = draw.refusals(text, self.hosts.fleet.env)
            raise RefusedError(f"the gate refuses it, {current or 'nothing'} serves on:\n  {why}")
        self.report = json.loads(text)
        new = {"validation": self.report, "digests": packed.files}
        self.done.changes = changes.between(self.old, new, self.hosts.served()["dags"])
        for warning in (found for found in self.report["findings"] if found["severity"] == "warning"):
            self.steps.note(f"warning: {warning['file']}:{warning['line']} {warning['rule']}: {warning['message']}")
        for line in self.done.changes.lines():
            self.steps.note(line)
        self._refuse_stranding()
        return True

    def consequence(self) -> str:
        """Say what agreeing means."""
        what = self.done.changes
        return (
            f"{self.hosts.fleet.env}: {len(what.added)} DAGs are added, {len(what.changed)} changed, "
            f"{len(what.removed)} REMOVED; new runs take the new release, runs in flight stay on theirs."
        )

    def bring(self, packed: source.Source, watch_seconds: float) -> None:
        """Publish the release and put it into service."""
        result = self.done.result
        roll = Rollout(self.hosts, self.steps.now, self._check, self.hosts.fleet.env)
        roll.check()
        self.steps.now("publishing it on the share")
        started = time.monotonic()
        result.release = self._published(packed) or self.hosts.publish(packed, self.report)["release"]
        self.done.published_seconds = time.monotonic() - started
        self._audit()
        roll.warm(result)
        expected = Expected.of({"validation": self.report, "digests": packed.files}, self.done.changes.affected)
        look = watch.Watch(watch_seconds, self.before) if watch_seconds else None
        try:
            roll.serve(result, expected, Expected.of(self.old), look)
        finally:
            self._audit()

    def _published(self, packed: source.Source) -> str | None:
        """Return the newest release if it is this one: a timer that tries again must not fill the share."""
        known = self.hosts.known(self.newest)
        # What lies there unsigned may be anybody's.
        if known.get("refusal"):
            return None
        same = all(known.get(name) == getattr(packed, name) for name in ("digest", "commit", "author", "message"))
        return self.newest if same else None

    def _check(self) -> None:
        if self.held:
            self.held.check()
        # Once more: publishing and copying took their time.
        self._refuse_stranding()

    def _refuse_stranding(self) -> None:
        for line in stranded.refuse(self.hosts, self.done.changes, self.hosts.fleet.env, force=self.force):
            self.steps.note(f"warning: {line}")
            self.done.forced = True

    def _audit(self) -> None:
        if self.held:
            self.held.hosts = [host.host for host in self.done.result.hosts if host.reachable]
            state = "taken back" if self.done.result.rolled_back else "done"
            forced = ", forced" if self.done.forced else ""
            self.held.result = f"{state}: {self.done.result.release} after {self.done.result.previous}{forced}"


def _said(done: Deployment, env: str, *, dry_run: bool) -> str:
    result = done.result
    if result.release and result.release == result.previous:
        return f"nothing to do: {result.release} has the same files and serves already"
    if dry_run:
        return "the gate lets it through; nothing was changed"
    lines = [f"warning: {text}" for text in result.warnings]
    lines.append(
        f"{result.release} serves: validated in {done.validated_seconds or 0:.1f} s, published in "
        f"{done.published_seconds or 0:.1f} s, changed DAGs visible {result.visible_seconds or 0:.1f} s and all "
        f"{result.verified_seconds or 0:.1f} s after the flip; back again: {hints.ops(env, 'rollback')}"
    )
    return "\n".join(lines)
