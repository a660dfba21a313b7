"""The scheduler lease, as the real server keeps it."""

import threading
import time
from typing import Any

import psycopg2
import psycopg2.errors
import pytest

from tests.lab.lease.cluster import Cluster, ask, psql

TTL = "6 s"


def acquire(session: Any, ttl: str = TTL, *, willing: bool = True) -> dict[str, Any]:
    return ask(session, "SELECT ops.acquire(%s, %s)", ttl, willing)


def renew(session: Any, epoch: int, ttl: str = TTL, sent_through: float | None = None) -> dict[str, Any]:
    return ask(session, "SELECT ops.renew(%s, %s, %s)", epoch, ttl, sent_through)


def fence(session: Any, epoch: int) -> dict[str, Any]:
    return ask(session, "SELECT ops.fence(%s)", epoch)


def release(session: Any, epoch: int, successor: str | None = None) -> dict[str, Any]:
    return ask(session, "SELECT ops.release(%s, 'test', %s)", epoch, successor)


def status(cluster: Cluster, host: str) -> dict[str, Any]:
    return cluster.ask("postgres", "SELECT to_jsonb(s) FROM ops.lease_status AS s WHERE host = %s", host)


def expire(cluster: Cluster) -> None:
    cluster.admin("UPDATE ops.scheduler_lease SET expires_at = clock_timestamp()")


def test_script_first_run_installs_and_second_run_changes_nothing(cluster: Cluster) -> None:
    assert "install the scheduler lease" in cluster.first_run[1]
    assert [psql(script) for script in cluster.scripts] == ["", ""]


def test_script_applied_to_an_older_grant_gives_it_to_the_lease(cluster: Cluster) -> None:
    psql("GRANT airflow TO scheduler_sched1 WITH INHERIT TRUE, SET FALSE")
    assert "leave the membership of scheduler_sched1 to the lease" in psql(cluster.scripts[0])
    assert psql(cluster.scripts[0]) == ""


def test_converge_while_fenced_leaves_the_fence(cluster: Cluster) -> None:
    acquire(cluster.connect("keeper_sched1"))
    assert [psql(script) for script in cluster.scripts] == ["", ""]
    assert (status(cluster, "sched2")["admitted"], status(cluster, "sched2")["writes"]) == (False, False)


def test_host_that_left_the_inventory_is_shut_out(cluster: Cluster) -> None:
    session = cluster.connect("scheduler_sched2")
    without = cluster.scripts[1].replace("INSERT INTO scheduler_host VALUES ('sched2');", "")
    assert "forget the keeper of sched2" in psql(without)
    with pytest.raises(psycopg2.OperationalError):
        ask(session, "SELECT 1")
    with pytest.raises(psycopg2.OperationalError, match="not permitted to log in"):
        cluster.connect("scheduler_sched2")
    assert "know the keeper of sched2" in psql(cluster.scripts[1])


def test_free_lease_goes_to_one_of_many_that_race(cluster: Cluster) -> None:
    sessions = [cluster.connect(f"keeper_{host}") for host in ("sched1", "sched2") for _ in range(5)]
    start = threading.Barrier(len(sessions))
    granted: list[int] = []

    def race(session: Any) -> None:
        start.wait()
        for _ in range(20):
            answer = acquire(session)
            if answer["granted"]:
                granted.append(answer["epoch"])

    threads = [threading.Thread(target=race, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A younger session of the same host may take its own lease again; no epoch is ever given twice.
    assert granted
    assert sorted(granted) == list(range(min(granted), min(granted) + len(granted)))
    holders = cluster.admin("SELECT DISTINCT host FROM ops.lease_event WHERE event = 'acquired'")
    assert len(holders) == 1


def test_renewal_of_another_epoch_or_after_expiry_is_refused(cluster: Cluster) -> None:
    keeper = cluster.connect("keeper_sched1")
    epoch = acquire(keeper)["epoch"]
    assert renew(keeper, epoch)["held"] is True
    assert renew(keeper, epoch - 1)["held"] is False
    assert renew(keeper, epoch + 1)["held"] is False
    assert renew(cluster.connect("keeper_sched2"), epoch)["held"] is False
    expire(cluster)
    assert renew(keeper, epoch)["held"] is False


def test_live_lease_is_not_taken_and_an_expired_one_is(cluster: Cluster) -> None:
    first, second = cluster.connect("keeper_sched1"), cluster.connect("keeper_sched2")
    epoch = acquire(first)["epoch"]
    assert acquire(second) | {"epoch": 0} == {
        "granted": False, "epoch": 0, "holder": "sched1", "suspended": False, "admitted": False,
    }  # fmt: skip
    expire(cluster)
    assert acquire(second, willing=False)["granted"] is False
    taken = acquire(second)
    assert (taken["granted"], taken["epoch"], taken["why"]) == (True, epoch + 1, "expired")


def test_lease_of_a_vanished_session_is_taken_before_it_expires(cluster: Cluster) -> None:
    # The server must have been up for ten seconds: right after a restart everybody's session is gone.
    first, second = cluster.connect("keeper_sched1"), cluster.connect("keeper_sched2")
    epoch = acquire(first, "60 s")["epoch"]
    fence(first, epoch)
    first.close()
    began = time.monotonic()
    while not (answer := acquire(second))["granted"]:
        assert time.monotonic() - began < 15
        time.sleep(0.05)
    assert (answer["epoch"], answer["why"]) == (epoch + 1, "session gone")


def test_lease_of_a_vanished_session_that_was_still_fencing_is_waited_out(cluster: Cluster) -> None:
    while not cluster.admin("SELECT 1 WHERE pg_postmaster_start_time() < now() - interval '10 s'"):
        time.sleep(0.1)
    first, second = cluster.connect("keeper_sched1"), cluster.connect("keeper_sched2")
    acquire(first, "60 s")
    first.close()
    cluster.admin("UPDATE ops.scheduler_lease SET renewed_at = clock_timestamp() - interval '5 s'")
    assert acquire(second)["granted"] is False
    expire(cluster)
    assert acquire(second)["granted"] is True


def test_lease_of_a_silent_session_is_not_taken_before_it_expires(cluster: Cluster) -> None:
    first, second = cluster.connect("keeper_sched1"), cluster.connect("keeper_sched2")
    acquire(first, "60 s")
    cluster.admin("UPDATE ops.scheduler_lease SET renewed_at = clock_timestamp() - interval '5 s'")
    assert acquire(second)["granted"] is False


def test_own_lease_is_taken_by_a_younger_session_only(cluster: Cluster) -> None:
    old, first, young = (cluster.connect("keeper_sched1") for _ in range(3))
    epoch = acquire(first)["epoch"]
    assert acquire(old)["granted"] is False
    assert acquire(first)["granted"] is False
    assert acquire(young) | {"why": ""} == {
        "granted": True, "epoch": epoch + 1, "holder": "sched1", "admitted": True, "why": "",
    }  # fmt: skip


def test_released_lease_is_free_at_once_and_said_so(cluster: Cluster) -> None:
    first, second = cluster.connect("keeper_sched1"), cluster.connect("keeper_sched2")
    ask(second, "LISTEN scheduler_lease")
    epoch = acquire(first)["epoch"]
    assert release(first, epoch - 1)["released"] is False
    assert release(first, epoch)["released"] is True
    assert release(first, epoch)["released"] is False
    assert acquire(second)["granted"] is True
    assert [note.payload for note in second.notifies] == ["scheduler"]


def test_released_lease_is_kept_for_its_successor(cluster: Cluster) -> None:
    first, second = cluster.connect("keeper_sched1"), cluster.connect("keeper_sched2")
    epoch = acquire(first)["epoch"]
    release(first, epoch, "sched2")
    assert acquire(first)["granted"] is False
    assert acquire(second)["granted"] is True
    release(second, epoch + 1, "sched1")
    cluster.admin("UPDATE ops.scheduler_lease SET released_at = released_at - interval '6 s'")
    assert acquire(second)["granted"] is True


def test_taking_shuts_the_rival_and_fencing_ends_its_sessions(cluster: Cluster) -> None:
    first, second = cluster.connect("keeper_sched1"), cluster.connect("keeper_sched2")
    fence(first, acquire(first)["epoch"])
    writer = cluster.connect("scheduler_sched1")
    ask(writer, "INSERT INTO job (job_type, state) VALUES ('SchedulerJob', 'running'), ('TriggererJob', 'running')")
    frozen = cluster.connect("scheduler_sched1")
    frozen.autocommit = False
    ask(frozen, "INSERT INTO job (job_type, state) VALUES ('Frozen', 'running')")
    expire(cluster)
    epoch = acquire(second)["epoch"]
    # Before a single session is ended, no statement of the old role writes any more.
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        ask(writer, "UPDATE job SET hostname = 'old'")
    with pytest.raises(psycopg2.OperationalError, match="not permitted to log in"):
        cluster.connect("scheduler_sched1")
    answer = fence(second, epoch)
    assert (answer["held"], answer["sessions"], answer["jobs"]) == (True, 2, 1)
    assert answer["milliseconds"] > 0
    with pytest.raises(psycopg2.OperationalError):
        frozen.commit()
    rows = cluster.admin("SELECT job_type, state, end_date IS NOT NULL FROM job ORDER BY 1")
    assert rows == [("SchedulerJob", "failed", True), ("TriggererJob", "running", False)]
    new = cluster.connect("scheduler_sched2")
    ask(new, "INSERT INTO job (job_type, state) VALUES ('SchedulerJob', 'running')")


def test_fencing_also_ends_what_the_same_hosts_dead_scheduler_left(cluster: Cluster) -> None:
    keeper = cluster.connect("keeper_sched1")
    fence(keeper, acquire(keeper)["epoch"])
    left = cluster.connect("scheduler_sched1")
    younger = cluster.connect("keeper_sched1")
    assert fence(younger, acquire(younger)["epoch"])["sessions"] == 1
    with pytest.raises(psycopg2.OperationalError):
        ask(left, "SELECT 1")


def test_fencing_twice_acts_once(cluster: Cluster) -> None:
    keeper = cluster.connect("keeper_sched1")
    epoch = acquire(keeper)["epoch"]
    first = fence(keeper, epoch)
    own = cluster.connect("scheduler_sched1")
    ask(own, "INSERT INTO job (job_type, state) VALUES ('SchedulerJob', 'running')")
    assert fence(keeper, epoch) == first
    assert ask(own, "SELECT state FROM job") == "running"


def test_waived_fence_is_kept_as_unproved_only_while_it_is(cluster: Cluster) -> None:
    first, second = cluster.connect("keeper_sched1"), cluster.connect("keeper_sched2")
    fence(first, acquire(first)["epoch"])
    expire(cluster)
    epoch = acquire(second)["epoch"]
    assert cluster.ask("postgres", "SELECT ops.waive_fence(%s, 'late')", epoch - 1) is False
    assert cluster.ask("postgres", "SELECT ops.waive_fence(%s, 'late')", epoch) is True
    # Its sessions did end: the proof is there after all.
    assert "waived" not in fence(second, epoch)
    assert cluster.ask("postgres", "SELECT ops.waive_fence(%s, 'late')", epoch) is False
    assert cluster.admin("SELECT count(*) FROM ops.lease_event WHERE event = 'fence waived'") == [(1,)]


def test_fencing_without_the_lease_does_nothing(cluster: Cluster) -> None:
    first, second = cluster.connect("keeper_sched1"), cluster.connect("keeper_sched2")
    epoch = acquire(first)["epoch"]
    session = cluster.connect("scheduler_sched1")
    assert fence(second, epoch) == {"held": False}
    assert fence(first, epoch - 1) == {"held": False}
    assert ask(session, "SELECT 1") == 1


def test_taking_fails_rather_than_leave_a_rival_that_can_write(cluster: Cluster) -> None:
    psql("GRANT airflow TO scheduler_sched1 WITH INHERIT TRUE, SET FALSE")
    try:
        with pytest.raises(psycopg2.errors.RaiseException, match="scheduler_sched1 could still write"):
            acquire(cluster.connect("keeper_sched2"))
        assert cluster.admin("SELECT holder IS NULL FROM ops.scheduler_lease") == [(True,)]
    finally:
        psql("REVOKE airflow FROM scheduler_sched1")


def test_readmission_gives_the_login_but_not_the_right_to_write(cluster: Cluster) -> None:
    first, second = cluster.connect("keeper_sched1"), cluster.connect("keeper_sched2")
    epoch = acquire(second)["epoch"]
    assert ask(second, "SELECT ops.readmit(%s)", epoch) == {"readmitted": False}
    assert ask(first, "SELECT ops.readmit(%s)", epoch - 1) == {"readmitted": False}
    assert status(cluster, "sched1")["admitted"] is False
    assert ask(first, "SELECT ops.readmit(%s)", epoch) == {"readmitted": True}
    assert (status(cluster, "sched1")["admitted"], status(cluster, "sched1")["writes"]) == (True, False)
    # Even the right to connect to the database comes with the lease.
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        cluster.connect("scheduler_sched1")


def test_hand_over_reaches_the_holder_with_its_next_renewal(cluster: Cluster) -> None:
    first, second, operator = (cluster.connect(login) for login in ("keeper_sched1", "keeper_sched2", "postgres"))
    ask(first, "LISTEN scheduler_lease")
    epoch = acquire(first)["epoch"]
    acquire(second)
    why = 'it\'s\n"time"'
    answer = ask(operator, "SELECT ops.hand_over('sched2', %s)", why)
    assert answer == {"epoch": epoch, "from": "sched1", "to": "sched2"}
    assert renew(first, epoch) == {"held": True, "hand_over_to": "sched2"}
    assert len(first.notifies) == 1
    release(first, epoch, "sched2")
    assert acquire(second)["why"] == why
    events = cluster.admin("SELECT event FROM ops.lease_event ORDER BY id")
    assert [event for (event,) in events] == ["acquired", "hand-over asked", "released", "acquired"]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [("sched9", "sched9 runs no scheduler"), ("sched1", "sched1 is active already"), ("sched2", "no healthy standby")],
)
def test_hand_over_refuses_a_target_that_cannot_take_it(cluster: Cluster, target: str, complaint: str) -> None:
    acquire(cluster.connect("keeper_sched1"))
    with pytest.raises(psycopg2.Error, match=complaint):
        cluster.ask("postgres", "SELECT ops.hand_over(%s, 'test')", target)


def test_revoked_lease_goes_to_the_target_and_to_nobody_else(cluster: Cluster) -> None:
    first, second = cluster.connect("keeper_sched1"), cluster.connect("keeper_sched2")
    epoch = acquire(first)["epoch"]
    cluster.ask("postgres", "SELECT ops.revoke_lease('sched2', 'hung')")
    assert renew(first, epoch)["held"] is False
    assert acquire(cluster.connect("keeper_sched1"))["granted"] is False
    assert acquire(second)["why"] == "hung"


def test_suspended_lease_lets_every_scheduler_write_and_nobody_take_it(cluster: Cluster) -> None:
    keeper = cluster.connect("keeper_sched1")
    epoch = acquire(keeper)["epoch"]
    cluster.admin("SELECT ops.suspend(true)")
    # Its scheduler works on until its host is converged.
    assert renew(keeper, epoch)["held"] is True
    assert acquire(cluster.connect("keeper_sched2"))["suspended"] is True
    for host in ("sched1", "sched2"):
        assert cluster.ask(f"scheduler_{host}", "SELECT count(*) FROM job") == 0
    cluster.admin("SELECT ops.suspend(false)")
    assert renew(keeper, epoch)["held"] is False
    assert acquire(cluster.connect("keeper_sched2"))["granted"] is True
    assert status(cluster, "sched1")["writes"] is False


def test_converge_without_the_lease_lets_every_scheduler_write(cluster: Cluster) -> None:
    acquire(cluster.connect("keeper_sched1"))
    without = (
        cluster.scripts[1].replace("suspended <> false", "suspended <> true").replace("suspend(false)", "suspend(true)")
    )
    assert psql(without).strip() == "let the lease choose the scheduler"
    assert psql(without) == ""
    assert cluster.ask("scheduler_sched2", "SELECT count(*) FROM job") == 0
    assert psql(cluster.scripts[1]).strip() == "let the lease choose the scheduler"


def test_epoch_never_goes_back_even_for_the_superuser(cluster: Cluster) -> None:
    acquire(cluster.connect("keeper_sched1"))
    for statement in ("UPDATE ops.scheduler_lease SET epoch = epoch - 1", "DELETE FROM ops.scheduler_lease"):
        with pytest.raises(psycopg2.errors.RaiseException, match="cannot be undone"):
            cluster.admin(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count(*) FROM job",
        "SELECT count(*) FROM ops.scheduler_lease",
        "UPDATE ops.scheduler_lease SET holder = 'sched1'",
        "INSERT INTO ops.keeper VALUES ('keeper_sched1', 'x', 'airflow', 'scheduler')",
        "SELECT ops.shut('scheduler_sched2')",
        "SELECT ops.open('airflow')",
        "SELECT ops.hand_over('sched2', 'mine')",
        "SELECT ops.suspend(true)",
        "SELECT ops.waive_fence(1, 'mine')",
        "CREATE TABLE mine (id int)",
        "CREATE TABLE ops.mine (id int)",
        "CREATE TEMP TABLE job (id int)",
        "SET ROLE lease",
        "SET ROLE airflow",
        "ALTER ROLE scheduler_sched1 LOGIN",
    ],
)
def test_keeper_may_touch_nothing_but_its_functions(cluster: Cluster, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        cluster.ask("keeper_sched1", statement)


def test_login_that_keeps_no_scheduler_is_refused_by_name(cluster: Cluster) -> None:
    with pytest.raises(psycopg2.errors.RaiseException, match="postgres keeps no scheduler"):
        cluster.ask("postgres", "SELECT ops.acquire('6 s', true)")


def test_renewals_sent_through_is_what_the_next_holder_resends_from(cluster: Cluster) -> None:
    first, second = cluster.connect("keeper_sched1"), cluster.connect("keeper_sched2")
    epoch = acquire(first)["epoch"]
    assert fence(first, epoch)["resend_after"] is None
    renew(first, epoch, sent_through=1000.5)
    renew(first, epoch)
    release(first, epoch)
    acquire(second)
    assert fence(second, epoch + 1)["resend_after"] == 1000.5


def test_restarted_server_lets_the_holder_come_back_first(cluster: Cluster) -> None:
    first = cluster.connect("keeper_sched1")
    epoch = acquire(first, "60 s")["epoch"]
    cluster.restart()
    second = cluster.connect("keeper_sched2")
    cluster.admin("UPDATE ops.scheduler_lease SET renewed_at = clock_timestamp() - interval '3 s'")
    assert acquire(second)["granted"] is False
    assert renew(cluster.connect("keeper_sched1"), epoch)["held"] is True
