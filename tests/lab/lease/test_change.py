"""`ops-agent lease` on the database host, against the scratch cluster and two real keepers."""

import json
import os
import runpy
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ops_airflow.scheduler.protocol import Timing
from tests.lab.lease.cluster import PORT, SSH, Cluster, shell
from tests.lab.lease.keepers import ROOT, Running, until

AGENT = "/var/tmp/ops-agent-under-test"  # noqa: S108
REASON = 'it\'s "late";\n$(reboot) \\ DROP TABLE job; ü'
KEYS = {"kind", "from", "to", "epoch", "fenced", "pause_s", "first_task_s", "orphans", "orphans_adopted_s"}

# The agent is told its database by /etc/ops-agent/agent.json alone: for it that file says another port.
ELSEWHERE = f"""
told=$(mktemp)
trap 'rm -f "$told"' EXIT
sed 's/"database_port": [0-9]*/"database_port": {{port}}/' /etc/ops-agent/agent.json >"$told"
mount --bind "$told" /etc/ops-agent/agent.json
python3 {AGENT} lease {{action}}
"""

Agent = Callable[..., subprocess.CompletedProcess[str]]


def typed(action: str, port: int) -> str:
    """Return what is typed on the database host."""
    return f"sudo PGHOST=/tmp unshare --mount sh -ec {shlex.quote(ELSEWHERE.format(port=port, action=action))}"


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    """Give a call of the packed agent, as `ops` would run it, but with the scratch cluster as its database."""
    packed = runpy.run_path(str(ROOT / "roles/ops_agent/files/build_agent.py"))["pack"](
        ROOT / "ops_agent", ROOT / "ops_release"
    )
    subprocess.run([*SSH, f"sudo tee {AGENT} >/dev/null"], input=packed, check=True, timeout=30)

    def run(action: str, port: int = PORT, **request: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SSH, typed(action, port)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    yield run
    shell(f"rm -f {AGENT}", user="root")


def request(active: Running, standby: Running, kind: str = "switchover", **more: Any) -> dict[str, Any]:
    epoch = active.health()["epoch"]
    asked = {"kind": kind, "from": active.host, "to": standby.host, "epoch": epoch, "seen": epoch, "force": False}
    return {**asked, "why": REASON, "by": "alice@control", **more}


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1])["result"])


def test_switchover_is_measured_and_kept_in_the_history(
    cluster: Cluster, pair: tuple[Running, Running], agent: Agent
) -> None:
    active, standby = pair
    done = agent("change", **request(active, standby))
    found = result(done)
    assert [json.loads(line).get("event") for line in done.stdout.splitlines()[:-1]] == [
        "asked", "ended", "taken", "fenced", "started",
    ]  # fmt: skip
    assert set(found) == KEYS
    assert (found["kind"], found["from"], found["to"], found["fenced"]) == (
        "switchover", active.host, standby.host, True,
    )  # fmt: skip
    assert 0 < found["pause_s"] <= found["first_task_s"]
    assert found["orphans"] > 0
    assert found["orphans_adopted_s"] >= 0
    assert standby.is_("active")
    last = json.loads(agent("history").stdout)["history"][0]
    assert last | found == last
    assert (last["why"], last["by"]) == (REASON, "alice@control")
    assert last["gap_s"] <= last["pause_s"]
    assert cluster.admin("SELECT count(*) FROM ops.lease_event WHERE why = $$" + REASON + "$$") == [(2,)]


def test_forced_failover_from_a_frozen_holder_proves_the_fence(
    cluster: Cluster, pair: tuple[Running, Running], agent: Agent
) -> None:
    active, standby = pair
    asked = request(active, standby, "failover")
    for pid in (active.process.pid, active.health()["scheduler_pid"]):
        os.kill(pid, signal.SIGSTOP)
    found = result(agent("change", **asked))
    assert (found["kind"], found["to"], found["epoch"], found["fenced"]) == (
        "failover", standby.host, asked["epoch"] + 1, True,
    )  # fmt: skip
    # The lease was revoked, not waited out.
    assert found["pause_s"] < Timing.ttl
    assert cluster.admin(f"SELECT admitted, writes, sessions FROM ops.lease_status WHERE host = '{active.host}'") == [
        (False, False, 0)
    ]


@pytest.fixture
def stuck(cluster: Cluster, pair: tuple[Running, Running]) -> Iterator[Callable[[], int]]:
    """Freeze one database session of the active scheduler: it cannot be ended."""
    frozen: list[int] = []

    def freeze() -> int:
        ask = f"SELECT pid FROM pg_stat_activity WHERE usename = 'scheduler_{pair[0].host}'"
        frozen.append(cluster.admin(ask)[0][0])
        shell(f"kill -STOP {frozen[0]}")
        return frozen[0]

    yield freeze
    for pid in frozen:
        shell(f"kill -CONT {pid} || true")


def test_session_that_does_not_end_leaves_the_failover_unproved(
    cluster: Cluster, pair: tuple[Running, Running], agent: Agent, stuck: Callable[[], int]
) -> None:
    active, standby = pair
    asked = request(active, standby, "failover")
    pid = stuck()
    done = agent("change", **asked)
    assert done.returncode == 1
    assert f"{active.host} is not proved to be fenced" in done.stderr
    assert f"scheduler_{active.host} (pid {pid})" in done.stderr
    assert standby.is_("fencing")
    # Typed again with --force, it goes on from there.
    found = result(agent("change", **{**asked, "kind": "waive", "seen": asked["epoch"] + 1, "force": True}))
    assert (found["fenced"], found["to"], found["pause_s"] is not None) == (False, standby.host, True)
    waived = cluster.admin("SELECT host, why, detail ->> 'by' FROM ops.lease_event WHERE event = 'fence waived'")
    assert waived == [(standby.host, REASON, "alice@control")]
    assert json.loads(agent("history").stdout)["history"][0]["fenced"] is False


def test_force_waives_the_proof_in_one_go_and_only_if_it_is_missing(
    pair: tuple[Running, Running], agent: Agent, stuck: Callable[[], int]
) -> None:
    active, standby = pair
    asked = request(active, standby, "failover", force=True)
    stuck()
    assert result(agent("change", **asked))["fenced"] is False
    until(lambda: standby.is_("active"))


def test_force_does_not_waive_a_proof_that_is_there(pair: tuple[Running, Running], agent: Agent) -> None:
    active, standby = pair
    assert result(agent("change", **request(active, standby, "failover", force=True)))["fenced"] is True


def test_change_of_another_epoch_than_was_seen_changes_nothing(
    cluster: Cluster, pair: tuple[Running, Running], agent: Agent
) -> None:
    active, standby = pair
    epoch = active.health()["epoch"]
    done = agent("change", **request(active, standby, epoch=epoch - 1, seen=epoch - 1))
    assert done.returncode == 1
    assert f"meanwhile {active.host} holds the lease, in epoch {epoch}: nothing was changed" in done.stderr
    assert cluster.admin("SELECT count(*) FROM ops.lease_event WHERE event = 'hand-over asked'") == [(0,)]
    assert active.is_("active")


def test_killed_asker_leaves_a_change_that_completes(pair: tuple[Running, Running], agent: Agent) -> None:
    active, standby = pair
    until(lambda: standby.health()["ready"])
    command = typed("change", PORT)
    with subprocess.Popen([*SSH, command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdin
        assert asking.stdout
        asking.stdin.write(json.dumps(request(active, standby)))
        asking.stdin.close()
        assert "asked" in asking.stdout.readline()
        asking.kill()
    until(lambda: standby.is_("active") and active.is_("standby"))
    assert json.loads(agent("history").stdout)["history"][0]["kind"] == "switchover"


def test_status_tells_who_is_active_and_ready(pair: tuple[Running, Running], agent: Agent) -> None:
    active, standby = pair
    lease = json.loads(agent("status").stdout)["lease"]
    assert (lease["holder"], lease["live"], lease["fenced"], lease["suspended"]) == (active.host, True, True, False)
    assert lease["age_s"] < Timing.ttl
    hosts = {host["name"]: host for host in lease["hosts"]}
    assert (hosts[active.host]["active"], hosts[active.host]["writes"]) == (True, True)
    assert (hosts[standby.host]["ready"], hosts[standby.host]["writes"]) == (True, False)
    assert hosts[active.host]["sessions"] > 0


def test_database_that_is_down_is_told_apart(agent: Agent) -> None:
    for action in ("status", "history"):
        asked = agent(action, port=55499)
        assert (asked.returncode, "55499" in asked.stderr, asked.stdout) == (3, True, "")
    done = agent("change", port=55499, kind="switchover", to="sched2", epoch=1, seen=1, why="", force=False, by="x")
    assert (done.returncode, "55499" in done.stderr) == (3, True)
