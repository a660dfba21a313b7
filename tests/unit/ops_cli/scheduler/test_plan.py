from typing import Any

import pytest

from ops_cli.console.errors import ExitCode, OpsError, UsageError
from ops_cli.fleet.inventory import Host, Inventory
from ops_cli.scheduler import plan as switchover
from ops_cli.scheduler.plan import NotCheckedError, RefusedError, Scheduler, Situation

FLEET = Inventory(
    "lab",
    (Host("web1", "10.0.0.1", "web"), Host("sched1", "10.0.0.2", "scheduler"), Host("sched2", "10.0.0.3", "scheduler")),
)
LEASE = {
    "epoch": 7, "holder": "sched1", "previous": "sched2", "hand_over_to": None,
    "live": True, "fenced": True, "suspended": False, "age_s": 0.4, "held_s": 600.0,
}  # fmt: skip
ACTIVE = Scheduler(
    "sched1",
    {"active": True, "ready": False, "seen_s": 600.0, "sessions": 3, "writes": True},
    {"state": "active", "ready": False},
)
STANDBY = Scheduler(
    "sched2",
    {"active": False, "ready": True, "seen_s": 0.3, "sessions": 0, "writes": False},
    {"state": "standby", "ready": True},
)


def seen(*schedulers: Scheduler, **lease: Any) -> Situation:
    return Situation("lab", LEASE | lease, schedulers or (ACTIVE, STANDBY))


@pytest.mark.parametrize("to", [None, "sched2"])
def test_healthy_active_hands_over_to_the_standby(to: str | None) -> None:
    plan = switchover.decide(seen(), to)
    assert (plan.kind, plan.source, plan.target, plan.epoch, plan.seen) == ("switchover", "sched1", "sched2", 7, 7)
    assert plan.consequence.startswith("Planned switchover from sched1 to sched2")
    assert plan.as_json() == {"dry_run": True, "kind": "switchover", "from": "sched1", "to": "sched2", "epoch": 8}


def test_force_alone_does_not_make_a_healthy_one_fail() -> None:
    plan = switchover.decide(seen(), force=True)
    assert plan.kind == "switchover"
    assert "starts without the proof (--force)" in plan.consequence
    assert "--force" not in switchover.decide(seen()).consequence


def test_active_whose_keeper_cannot_be_asked_hands_over_if_it_renews() -> None:
    assert switchover.decide(seen(Scheduler("sched1", ACTIVE.row, {}, "unreachable"), STANDBY)).kind == "switchover"


@pytest.mark.parametrize(
    ("lease", "why"),
    [
        ({"live": False, "age_s": 7.0}, "the lease of sched1 has expired"),
        ({"age_s": 3.1}, "sched1 has not renewed its lease for 3.1 s"),
        ({"holder": None, "live": False, "previous": "sched1"}, "nobody holds the lease"),
        ({"fenced": False}, "sched1 has not proved the others fenced"),
    ],
)
def test_active_that_is_not_healthy_is_forced(lease: dict[str, Any], why: str) -> None:
    plan = switchover.decide(seen(**lease), "sched2")
    assert (plan.kind, plan.source, plan.target, plan.why) == ("failover", "sched1", "sched2", why)
    assert "sched2 shuts every other host out of the database before it starts." in plan.consequence


def test_keeper_that_denies_being_active_is_forced() -> None:
    plan = switchover.decide(seen(Scheduler("sched1", ACTIVE.row, {"state": "standby"}), STANDBY))
    assert (plan.kind, plan.why) == ("failover", "the keeper of sched1 says it is standby")


def test_request_says_who_asked_where_no_reason_is_given() -> None:
    request = switchover.decide(seen()).request(why="", by="alice@control")
    assert request == {
        "kind": "switchover", "from": "sched1", "to": "sched2", "epoch": 7, "seen": 7, "force": False,
        "why": "asked for by alice@control", "by": "alice@control",
    }  # fmt: skip


def test_target_that_is_active_is_refused_as_usage() -> None:
    with pytest.raises(UsageError, match="sched1 is active already, in epoch 7: nothing to do"):
        switchover.decide(seen(), "sched1")


@pytest.mark.parametrize(
    ("row", "keeper", "error", "why"),
    [
        ({"ready": True}, {}, "sched2 is unreachable: no answer", "sched2 is unreachable: no answer"),
        ({"ready": True}, {"ready": False, "failure": "no route\nto host"}, "", "no route to host"),
        ({"ready": True}, {"ready": False, "why": "the scheduler died of SIGKILL"}, "", "died of SIGKILL"),
        ({"ready": False, "seen_s": 41.2}, {"ready": True}, "", "last reported 41 s ago"),
        ({"ready": False, "seen_s": None}, {"ready": True}, "", "its keeper never reported"),
        ({}, {"ready": True}, "", "the database knows no keeper of it"),
    ],
)
def test_standby_that_is_not_healthy_is_refused_with_the_reason(
    row: dict[str, Any], keeper: dict[str, Any], error: str, why: str
) -> None:
    with pytest.raises(RefusedError, match="no healthy standby") as refusal:
        switchover.decide(seen(ACTIVE, Scheduler("sched2", row, keeper, error)))
    assert why in str(refusal.value)
    assert "Nothing was changed; type: " in str(refusal.value)
    assert refusal.value.exit_code is ExitCode.CHECK_FAILED


def test_lone_scheduler_has_no_standby() -> None:
    with pytest.raises(RefusedError, match="there is no other scheduler host"):
        switchover.decide(seen(ACTIVE))


def test_unhealthy_holder_is_the_last_choice_among_those_that_are_ready() -> None:
    back = Scheduler("sched1", STANDBY.row, STANDBY.keeper)
    assert switchover.decide(seen(back, STANDBY, holder=None, live=False, previous="sched1")).target == "sched2"
    dead = Scheduler("sched2", {}, {})
    assert switchover.decide(seen(back, dead, holder=None, live=False, previous="sched1")).target == "sched1"


def test_hand_over_that_is_under_way_is_not_asked_for_twice() -> None:
    with pytest.raises(RefusedError, match="sched1 is handing over to sched2 already"):
        switchover.decide(seen(hand_over_to="sched2"))


@pytest.mark.parametrize("to", [None, "sched1", "sched2"])
def test_take_over_that_has_just_begun_is_left_alone(to: str | None) -> None:
    with pytest.raises(RefusedError, match="sched1 is just taking over"):
        switchover.decide(seen(fenced=False, held_s=0.2), to, force=True)


def test_fence_that_is_not_proved_is_refused_without_force() -> None:
    stuck = seen(ACTIVE, Scheduler("sched2", STANDBY.row | {"sessions": 1}, STANDBY.keeper), fenced=False, held_s=30.0)
    with pytest.raises(
        RefusedError, match=r"not proved that sched2 is fenced.*ops failover --env lab --to sched1 --force"
    ):
        switchover.decide(stuck)
    plan = switchover.decide(stuck, "sched1", force=True)
    assert (plan.kind, plan.source, plan.target, plan.epoch, plan.seen) == ("waive", "sched2", "sched1", 6, 7)
    assert "not proved that sched2 is fenced" in plan.consequence
    assert plan.as_json()["kind"] == "failover"


@pytest.mark.parametrize(
    ("to", "reason", "text"),
    [
        ("sched9", "", "inventories/lab has no host sched9: --to takes one of sched1, sched2"),
        ("web1", "", "web1 is no scheduler: --to takes one of sched1, sched2"),
        (None, "x" * 1001, "the reason has 1001 characters"),
        (None, "\udcff", "not valid UTF-8"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(to: str | None, reason: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        switchover.check_arguments(FLEET, to, reason)


def test_reason_with_quotes_and_line_breaks_is_taken() -> None:
    switchover.check_arguments(FLEET, "sched2", 'it\'s "late";\n-- ü')


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (
            {"error": "connection refused", "down": True},
            NotCheckedError,
            "on pg1 does not answer: connection refused. Not",
        ),
        ({"error": "not found"}, OpsError, "pg1: ops-agent gave no answer: not found"),
        ({"lease": None}, RefusedError, "pg1 has no scheduler lease; set airflow_scheduler_mode: active_standby"),
        ({"lease": LEASE | {"suspended": True}}, RefusedError, "do not run in mode active_standby; set airflow_sched"),
    ],
)
def test_lease_that_cannot_be_moved_is_refused(answer: dict[str, Any], kind: type[OpsError], text: str) -> None:
    with pytest.raises(kind, match=text) as refusal:
        switchover.refuse_without_lease("lab", "pg1", answer)
    assert "type: .venv/bin/ansible" in str(refusal.value)
    assert refusal.value.exit_code is kind.exit_code


def test_database_that_is_down_means_unreachable_and_says_what_is_unknown() -> None:
    with pytest.raises(NotCheckedError, match="Not checked: who is active, whether a standby is ready") as refusal:
        switchover.refuse_without_lease("lab", "pg1", {"error": "x", "down": True})
    assert refusal.value.exit_code is ExitCode.UNREACHABLE


def test_history_is_refused_where_there_is_no_lease() -> None:
    with pytest.raises(RefusedError, match="no scheduler lease"):
        switchover.read_history("lab", "pg1", {"history": None})
    assert switchover.read_history("lab", "pg1", {"history": []}) == []
