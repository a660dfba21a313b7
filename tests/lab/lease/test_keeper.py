"""Two real keepers against the real server, with schedulers that write a row every 5 ms."""

import contextlib
import os
import signal
import socket
from pathlib import Path

from tests.lab.lease.cluster import Cluster
from tests.lab.lease.keepers import Running, until, written


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_taken_over(cluster: Cluster, active: Running, standby: Running, why: str) -> None:
    """The standby took the lease for this reason; the old one has written nothing since the fence or its first row."""
    until(lambda: written(cluster, standby.host))
    assert cluster.admin("SELECT host, why FROM ops.lease_event WHERE event = 'acquired' ORDER BY id DESC LIMIT 1") == [
        (standby.host, why)
    ]
    late = """SELECT count(*) FROM task_instance WHERE note = %(old)s AND at > least(
      (SELECT max(e.at) FROM ops.lease_event AS e WHERE event = 'fenced'),
      (SELECT min(t.at) FROM task_instance AS t WHERE note = %(new)s))"""
    assert cluster.ask("postgres", late, {"old": active.host, "new": standby.host}) == 0


def test_killed_scheduler_is_replaced_by_the_other_host_at_once(
    cluster: Cluster, pair: tuple[Running, Running]
) -> None:
    active, standby = pair
    os.kill(active.health()["scheduler_pid"], signal.SIGKILL)
    assert_taken_over(cluster, active, standby, "free")
    until(lambda: active.health()["ready"])
    assert cluster.admin("SELECT why FROM ops.lease_event WHERE event = 'released'") == [
        ("the scheduler died of SIGKILL",)
    ]


def test_killed_keeper_takes_its_scheduler_along_and_is_replaced(
    cluster: Cluster, pair: tuple[Running, Running]
) -> None:
    active, standby = pair
    scheduler = active.health()["scheduler_pid"]
    until(lambda: cluster.ask("postgres", "SELECT pg_postmaster_start_time() < now() - interval '10 s'"))
    active.process.kill()
    until(lambda: standby.is_("fencing") or standby.is_("active"))
    assert not alive(scheduler), "it outlived its keeper until another host took the lease"
    assert_taken_over(cluster, active, standby, "session gone")


def test_frozen_keeper_and_scheduler_write_nothing_when_they_wake(
    cluster: Cluster, pair: tuple[Running, Running]
) -> None:
    active, standby = pair
    scheduler = active.health()["scheduler_pid"]
    for pid in (active.process.pid, scheduler):
        os.kill(pid, signal.SIGSTOP)
    until(lambda: written(cluster, standby.host))
    for pid in (scheduler, active.process.pid):
        os.kill(pid, signal.SIGCONT)
    until(lambda: active.is_("standby"))
    assert_taken_over(cluster, active, standby, "expired")
    until(lambda: active.health()["ready"])
    until(lambda: cluster.ask("postgres", "SELECT admitted FROM ops.lease_status WHERE host = %s", active.host))


def test_hung_loop_loses_the_lease(cluster: Cluster, pair: tuple[Running, Running]) -> None:
    active, standby = pair
    os.kill(active.health()["scheduler_pid"], signal.SIGSTOP)
    assert_taken_over(cluster, active, standby, "free")
    assert cluster.admin("SELECT why FROM ops.lease_event WHERE event = 'released'") == [
        ("the scheduler's loop stands still",)
    ]


def test_lease_is_handed_over_and_back_again(cluster: Cluster, pair: tuple[Running, Running]) -> None:
    for active, standby in (pair, pair[::-1]):
        until(lambda standby=standby: standby.health()["ready"])
        cluster.admin("DELETE FROM task_instance")
        until(lambda active=active: written(cluster, active.host))
        cluster.ask("postgres", "SELECT ops.hand_over(%s, 'test')", standby.host)
        assert_taken_over(cluster, active, standby, "test")


def test_restarted_database_keeps_the_active_one_active(cluster: Cluster, pair: tuple[Running, Running]) -> None:
    active, _ = pair
    epoch = active.health()["epoch"]
    cluster.restart()
    before = written(cluster, active.host)
    until(lambda: written(cluster, active.host) > before)
    assert (active.health()["state"], active.health()["epoch"]) == ("active", epoch)


def test_renewals_that_wait_in_vain_do_not_move_the_lease(cluster: Cluster, pair: tuple[Running, Running]) -> None:
    active, _ = pair
    until(lambda: cluster.ask("postgres", "SELECT pg_postmaster_start_time() < now() - interval '10 s'"))
    epoch = active.health()["epoch"]
    for _ in range(8):
        with contextlib.closing(cluster.connect("postgres")) as blocker, blocker.cursor() as cursor:
            cursor.execute("BEGIN; SELECT FROM ops.scheduler_lease FOR UPDATE")
            until(lambda: active.health()["failure"] or not active.is_("active"))
            # Let go at the moment at which the keeper has no other session yet.
        until(lambda: not active.health()["failure"])
    assert (active.health()["state"], active.health()["epoch"]) == ("active", epoch)


def test_stopped_keeper_hands_its_lease_on(cluster: Cluster, pair: tuple[Running, Running]) -> None:
    active, standby = pair
    active.process.terminate()
    assert active.process.wait(20) == 0
    assert_taken_over(cluster, active, standby, "free")


def test_endpoint_serves_metrics_and_refuses_the_rest(pair: tuple[Running, Running]) -> None:
    active, standby = pair
    metrics = active.get("/metrics")
    assert 'airflow_keeper_state{state="active"} 1.0' in metrics
    assert f"airflow_keeper_epoch {float(active.health()['epoch'])}" in metrics
    assert "airflow_keeper_failovers_total 1.0" in metrics
    assert 'airflow_keeper_state{state="standby"} 1.0' in standby.get("/metrics")
    assert active.get("/etc/passwd") == "GET /health or /metrics\n"


def test_bytes_and_floods_leave_the_active_scheduler_alone(cluster: Cluster, pair: tuple[Running, Running]) -> None:
    active, _ = pair
    before = active.health()
    with contextlib.ExitStack() as opened:
        for _ in range(500):
            opened.enter_context(socket.create_connection(("127.0.0.1", active.port), timeout=10))
        for words in (b"\r\n\r\n", b"GET\r\n\r\n", b"\0" * 9000):
            opened.enter_context(socket.create_connection(("127.0.0.1", active.port), timeout=10)).sendall(words)
        rows = written(cluster, active.host)
        until(lambda: written(cluster, active.host) > rows + 100)
    after = active.health()
    assert [after[name] for name in ("state", "epoch", "scheduler_pid")] == [
        before[name] for name in ("state", "epoch", "scheduler_pid")
    ]


def test_standby_calls_itself_ready_when_the_database_does(cluster: Cluster, pair: tuple[Running, Running]) -> None:
    active, standby = pair
    standby.process.kill()
    standby.process.wait()
    until(lambda: standby.is_("down"))
    cluster.admin("UPDATE ops.keeper SET ready = false")
    standby.start()
    until(lambda: standby.health()["ready"])
    assert cluster.ask("postgres", "SELECT ops.hand_over(%s, 'test')", standby.host)
    assert_taken_over(cluster, active, standby, "test")
