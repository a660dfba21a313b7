"""What the hosts do with DAG releases when `ops` asks."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops_cli.console import hints
from ops_cli.console.errors import OpsError, UsageError
from ops_cli.dags import signing
from ops_cli.dags.source import Source
from ops_cli.fleet import agent, ssh
from ops_cli.fleet.agent import Sessions
from ops_cli.fleet.conversation import RemoteError
from ops_cli.fleet.inventory import Host, Inventory

_QUICK_SECONDS = 30
_PUBLISH_SECONDS = 300
_GATE_SECONDS = 960
_TIERS = ("web", "scheduler", "worker")


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

    def validate(
        self, archive: Path, known: Mapping[str, Any], form: str = "json", *, keep: str = ""
    ) -> tuple[str, bool]:
        """Run the gate over a packed tree on a scheduler host; return its report and whether it refuses the tree.

        `known` is what `health` says: the pools of the database, and the queues that Ansible has its workers serve.
        With `keep`, the digest of its content, the host keeps what it lets through for `publish`.
        """
        options = json.dumps({name: known.get(name) for name in ("pools", "queues")})
        words = ["validate", "--format", form, "--options", options, *(["--keep", keep] if keep else []), "-"]
        judged = self._ask(self.publisher, words, _GATE_SECONDS, data=archive)
        return judged["report"], judged["refused"]

    def publish(self, source: Source, report: Mapping[str, Any]) -> dict[str, Any]:
        """Make a release of the tree that the gate let through with `report`, and sign it; nothing serves it yet."""
        key = self.signer()
        header = json.dumps(source.header()).encode()
        published = self._release("publish", "--judged", source.digest, seconds=_PUBLISH_SECONDS, data=header)
        text = self.manifest(published["release"])
        # What the share says now, whoever wrote it there, must be what this machine has sent and was told.
        told = {"id": published["release"], "digest": source.digest, "validation": dict(report), **source.header()}
        signing.refuse_other(text, source.files, told)
        self.sign(published["release"], key.sign(text))
        return published

    def signer(self) -> signing.Signer:
        """Return the key that signs this fleet's releases. Raises UsageError if it is not on this machine."""
        return signing.signer(self.fleet.signing_key)

    def manifest(self, release: str) -> str:
        """Return a release's manifest as it stands on the share, to be signed."""
        return str(self._release("manifest", release)["text"])

    def sign(self, release: str, signature: str) -> None:
        """Put a signature beside a release's manifest, without which no host takes it."""
        self._release("sign", release, "--signature", signature)

    def warm(self, release: str) -> list[Warmed]:
        """Have every Airflow host copy a release, all at once."""
        words = ["release", "warm", release]
        return [_warmed(reply) for reply in agent.survey(self.airflow, words, timeout_seconds=_PUBLISH_SECONDS)]

    def flip(self, release: str) -> dict[str, Any]:
        """Make a release the current one, and have the dag-processors look at once."""
        flipped = self._release("flip", release)
        if not flipped["refreshed"]:
            # If none can be told, they look by themselves a few seconds later.
            with suppress(OpsError):
                self._anywhere("release", "refresh")
        return flipped

    def served(self, release: str = "") -> dict[str, Any]:
        """Return which release each DAG is served from, and the import errors.

        With a release the host answers as soon as all its DAGs are served from it, or after about two seconds.
        """
        return self._anywhere("release", "served", *(["--release", release] if release else []))

    def health(self, since_seconds: float) -> dict[str, Any]:
        """Return pools, parse times and how tasks ended in the last `since_seconds` and in the hour before."""
        return self._anywhere("dag-health", "--since", f"{since_seconds:.0f}")

    def all(self) -> dict[str, Any]:
        """Return all releases, the newest first."""
        return self._release("list")

    def links(self) -> dict[str, Any]:
        """Return the ids of the current, the previous and all releases, without what each is: that is quick."""
        return self._release("links")

    def show(self, release: str) -> dict[str, Any]:
        """Return a release's manifest."""
        return self._release("show", release)

    def known(self, release: str | None) -> dict[str, Any]:
        """Return what is known of a release that a link names: its manifest, or nothing if it is gone or damaged."""
        if release:
            with suppress(RemoteError):
                return self.show(release)
        return {}

    def prune(self, keep: int, clearable_days: float, *, dry_run: bool) -> dict[str, Any]:
        """Remove the releases that nothing needs but the `keep` newest, or with `dry_run` say which."""
        words = ["prune", "--keep", str(keep), "--clearable-days", f"{clearable_days:g}", *["--dry-run"] * dry_run]
        return self._release(*words, seconds=_PUBLISH_SECONDS)

    def _release(self, *words: str, seconds: float = _QUICK_SECONDS, data: bytes = b"") -> dict[str, Any]:
        return self._ask(self.publisher, ["release", *words], seconds, data=data)

    def _anywhere(self, *words: str) -> dict[str, Any]:
        """Ask the first scheduler host that answers."""
        for host in self.schedulers[:-1]:
            with suppress(ssh.UnreachableError):
                return self._ask(host, words)
        return self._ask(self.schedulers[-1], words)

    def _ask(
        self, host: Host, words: Sequence[str], seconds: float = _QUICK_SECONDS, *, data: bytes | Path = b""
    ) -> dict[str, Any]:
        return self.sessions.ask(host, words, timeout_seconds=seconds, data=data)


def _warmed(reply: agent.Reply) -> Warmed:
    if reply.error:
        return Warmed(reply.host.name, reply.reachable, error=" ".join(reply.error.split()))
    return Warmed(reply.host.name, reachable=True, seconds=reply.answer["seconds"], copied=reply.answer["copied"])


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
