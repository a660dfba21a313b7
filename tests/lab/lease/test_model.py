"""The simulation's model of the lease functions and the real ones give the same answers to the same questions."""

import random
import time
from typing import Any

import pytest

from tests.lab.lease.cluster import HOSTS, Cluster, ask
from tests.simulation.database import Database, Session

KEYS = ("granted", "epoch", "holder", "admitted", "held", "hand_over_to", "released", "readmitted")
LEASE = "UPDATE ops.scheduler_lease SET "


class Both:
    """The model and the server, side by side."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster, self.random = cluster, random.Random(seed)  # noqa: S311
        self.model = Database(time.monotonic, HOSTS)
        self.model.lease.epoch = cluster.admin("SELECT epoch FROM ops.scheduler_lease")[0][0]
        self.sessions: dict[str, tuple[Any, Session]] = {}
        for host in HOSTS:
            self.reconnect(host)

    def reconnect(self, host: str) -> None:
        if host in self.sessions:
            real, model = self.sessions.pop(host)
            pid = real.info.backend_pid
            real.close()
            self.model.close_session(model)
            while self.cluster.admin(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"):
                time.sleep(0.005)
        self.sessions[host] = (self.cluster.connect(f"keeper_{host}"), self.model.open_session(host, None))

    def ask(self, verb: str, host: str) -> tuple[dict[str, Any], dict[str, Any]]:
        real, session = self.sessions[host]
        # Mostly the epoch that is, sometimes one that was.
        epoch = self.model.lease.epoch - self.random.choice((0, 0, 0, 1))
        other = HOSTS[1 - HOSTS.index(host)]
        successor, willing = self.random.choice((None, other)), self.random.random() < 0.9
        match verb:
            case "acquire":
                answers = (
                    ask(real, "SELECT ops.acquire('60 s', %s)", willing),
                    self.model.acquire(session, 60, willing=willing),
                )
            case "renew":
                answers = ask(real, "SELECT ops.renew(%s, '60 s', NULL)", epoch), self.model.renew(session, epoch, 60)
            case "release":
                answers = (
                    ask(real, "SELECT ops.release(%s, 'test', %s)", epoch, successor),
                    self.model.release(session, epoch, successor),
                )
            case "readmit":
                answers = ask(real, "SELECT ops.readmit(%s)", epoch), self.model.readmit(session, epoch)
            case _:
                modelled = self.model.may_fence(session, epoch)
                answers = ask(real, "SELECT ops.fence(%s)", epoch), modelled or self.model.fenced()
        return answers

    def disturb(self, kind: str, host: str) -> None:
        lease = self.model.lease
        if kind == "expire":
            self.cluster.admin(LEASE + "expires_at = clock_timestamp()")
            lease.expires_at = min(lease.expires_at, time.monotonic())
        elif kind == "age":
            self.cluster.admin(
                LEASE + "renewed_at = renewed_at - interval '3 s', released_at = released_at - interval '9 s'"
            )
            lease.renewed_at -= 3
            lease.released_at -= 9
        else:
            self.reconnect(host)


@pytest.mark.parametrize("seed", range(4))
def test_model_and_server_answer_alike(cluster: Cluster, seed: int) -> None:
    while not cluster.admin("SELECT 1 WHERE pg_postmaster_start_time() < now() - interval '11 s'"):
        time.sleep(0.5)
    both, history = Both(cluster, seed), []
    verbs = ("acquire", "acquire", "renew", "release", "readmit", "fence", "expire", "age", "reconnect")
    for _ in range(150):
        verb, host = both.random.choice(verbs), both.random.choice(HOSTS)
        history.append((verb, host))
        if verb in ("expire", "age", "reconnect"):
            both.disturb(verb, host)
            continue
        real, model = ({k: v for k, v in answer.items() if k in KEYS} for answer in both.ask(verb, host))
        history[-1] += (real,)  # type: ignore[assignment]
        assert real == model, history[-12:]
