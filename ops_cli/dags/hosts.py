"""What the hosts do with DAG releases when `ops` asks."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops_cli.console import hints
from ops_cli.console.errors import OpsError, UsageError
from ops_cli.dags.source import FOLDER, Source, write_header
from ops_cli.fleet import ssh
from ops_cli.fleet.conversation import RemoteError
from ops_cli.fleet.inventory import Host, Inventory
from ops_cli.fleet.session import Sessions

_QUICK_SECONDS = 30
_PUBLISH_SECONDS = 300
_GATE_SECONDS = 960
_GATE_CHECK_FAILED = 4
_TIERS = ("web", "scheduler", "worker")

# One command, so that nothing is left on the host whatever becomes of this side.
_GATE = """
set -e
umask 022
# What a reboot cut off.
find /var/lib -maxdepth 1 -name 'gate-*' -mmin +60 -exec rm -rf {} +
directory=$(mktemp -d /var/lib/gate-XXXXXX)
trap 'rm -rf "$directory"' EXIT
chmod 0755 "$directory"
tar --extract --no-same-owner --file - --directory "$directory"
/usr/local/bin/ops-agent validate --confined --format "$1" --options "$2" "$directory/$3" </dev/null
"""


@dataclass(frozen=True)
class Warmed:
    """Whether a host has its own copy of a release; `error` says why not."""

    host: str
    reachable: bool
    seconds: float = 0.0
    copied: bool = False
    error: str = ""


class ReleaseHosts:
    """The hosts of one fleet that have a part in releases."""

    def __init__(self, fleet: Inventory, sessions: Sessions) -> None:
        self.fleet = fleet
        self.sessions = sessions
        self.schedulers = fleet.tier("scheduler")
        # The one host that may write to the share: inventories/wiring/dags.yml says so too.
        self.publisher = self.schedulers[0]
        self.airflow = [host for host in fleet.hosts if host.tier in _TIERS]

    def validate(self, archive: Path, known: Mapping[str, Any], form: str = "json") -> tuple[str, bool]:
        """Run the gate over a packed tree on a scheduler host; return its report and whether it refuses the tree.

        `known` is what `health` says: the pools of the database, and the queues that Ansible has its workers serve.
        """
        options = json.dumps({name: known.get(name) for name in ("pools", "queues")})
        command = f"sudo -n sh -c {shlex.quote(_GATE)} gate {form} {shlex.quote(options)} {FOLDER}"
        lines: list[str] = []
        try:
            with archive.open("rb") as packed:
                for line in ssh.stream(self.publisher, command, stdin=packed, timeout_seconds=_GATE_SECONDS):
                    lines.append(line)  # noqa: PERF402 - what came before a failure is the report
        except RemoteError as error:
            if error.status != _GATE_CHECK_FAILED:
                raise
            return "\n".join(lines) + "\n", True
        return "\n".join(lines) + "\n", False

    def publish(self, source: Source, report: Mapping[str, Any], work: Path) -> dict[str, Any]:
        """Make a release of a packed tree; nothing serves it yet."""
        stream = work / "release.tar"
        with stream.open("wb") as sink, source.archive.open("rb") as packed:
            write_header(json.dumps(source.header(report)).encode(), sink)
            while block := packed.read(1 << 20):
                sink.write(block)
        with stream.open("rb") as packed:
            command = f"{ssh.AGENT} release publish"
            lines = list(ssh.stream(self.publisher, command, stdin=packed, timeout_seconds=_PUBLISH_SECONDS))
        try:
            published: dict[str, Any] = json.loads(lines[-1])
        except (ValueError, IndexError):
            raise OpsError(f"{self.publisher.name}: ops-agent printed {' '.join(lines)[:80]!r}, no release") from None
        return published

    def warm(self, release: str) -> list[Warmed]:
        """Have every Airflow host copy a release, all at once."""
        command = f"{ssh.AGENT} release warm {shlex.quote(release)}"
        return [_warmed(reply) for reply in ssh.ask(self.airflow, command, timeout_seconds=_PUBLISH_SECONDS)]

    def flip(self, release: str) -> dict[str, Any]:
        """Make a release the current one, and have the dag-processors look at once."""
        flipped = self._release(f"flip {shlex.quote(release)}")
        if not flipped["refreshed"]:
            # If none can be told, they look by themselves a few seconds later.
            with suppress(OpsError):
                self._anywhere("release refresh")
        return flipped

    def served(self, release: str = "") -> dict[str, Any]:
        """Return which release each DAG is served from, and the import errors.

        With a release the host answers as soon as all its DAGs are served from it, or after about two seconds.
        """
        return self._anywhere(f"release served {f'--release {shlex.quote(release)}' if release else ''}".strip())

    def health(self, since_seconds: float) -> dict[str, Any]:
        """Return pools, parse times and how tasks ended in the last `since_seconds` and in the hour before."""
        return self._anywhere(f"dag-health --since {since_seconds:.0f}")

    def all(self) -> dict[str, Any]:
        """Return all releases, the newest first."""
        return self._release("list")

    def links(self) -> dict[str, Any]:
        """Return the ids of the current, the previous and all releases, without what each is: that is quick."""
        return self._release("links")

    def show(self, release: str) -> dict[str, Any]:
        """Return a release's manifest."""
        return self._release(f"show {shlex.quote(release)}")

    def known(self, release: str | None) -> dict[str, Any]:
        """Return what is known of a release that a link names: its manifest, or nothing if it is gone or damaged."""
        if release:
            with suppress(RemoteError):
                return self.show(release)
        return {}

    def prune(self, keep: int, *, dry_run: bool) -> dict[str, Any]:
        """Remove the releases that nothing needs but the `keep` newest, or with `dry_run` say which."""
        return self._release(f"prune --keep {keep}{' --dry-run' * dry_run}", _PUBLISH_SECONDS)

    def _release(self, words: str, seconds: float = _QUICK_SECONDS) -> dict[str, Any]:
        return self._json(self.publisher, f"release {words}", seconds)

    def _anywhere(self, words: str) -> dict[str, Any]:
        """Ask the first scheduler host that answers."""
        for host in self.schedulers[:-1]:
            with suppress(ssh.UnreachableError):
                return self._json(host, words)
        return self._json(self.schedulers[-1], words)

    def _json(self, host: Host, words: str, seconds: float = _QUICK_SECONDS) -> dict[str, Any]:
        return self.sessions.ask(host, words, timeout_seconds=seconds)


def _warmed(reply: ssh.Reply) -> Warmed:
    if not reply.reachable or reply.error:
        return Warmed(reply.host.name, reply.reachable, error=" ".join(reply.error.split()))
    try:
        answer = json.loads(reply.stdout)
        return Warmed(reply.host.name, reachable=True, seconds=answer["seconds"], copied=answer["copied"])
    except (ValueError, KeyError):
        return Warmed(reply.host.name, reachable=True, error=f"it printed {reply.stdout[:80]!r}")


@contextmanager
def connected(fleet: Inventory) -> Iterator[ReleaseHosts]:
    """Give the hosts for a block; their logins end with it."""
    with Sessions() as sessions:
        yield ReleaseHosts(fleet, sessions)


def find(listed: Sequence[Mapping[str, Any]], wanted: str, env: str) -> str:
    """Return the one release whose id or commit begins with `wanted`. Raises UsageError unless exactly one does."""
    ids = [str(one["id"]) for one in listed]
    found = [one for one in ids if one.startswith(wanted) or one.partition("-")[2].startswith(wanted)]
    exact = [release for release in found if release == wanted]
    if len(exact or found) != 1:
        which = f"{len(found)} releases begin" if found else "no release begins"
        raise UsageError(f"{which} with {wanted!r}; type: {hints.ops(env, 'releases list')}")
    return (exact or found)[0]
