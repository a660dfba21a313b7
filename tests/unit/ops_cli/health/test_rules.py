import copy
import io
from typing import Any

import pytest
from rich.console import Console

from ops_cli.console.errors import ExitCode
from ops_cli.fleet.inventory import Host
from ops_cli.health import draw
from ops_cli.health.rules import FleetStatus, Observation

TIERS = {
    "lb1": "lb",
    "web1": "web",
    "sched1": "scheduler",
    "sched2": "scheduler",
    "cpu1": "worker",
    "mq1": "broker",
    "pg1": "database",
    "nfs1": "share",
}
SHARE = {"path": "/srv/airflow/dags", "unit": "srv-airflow-dags.mount", "mounted": True, "responding": True}
RABBITMQ = {
    "queues": [{"name": "cpu", "ready": 3, "unacked": 1, "consumers": 1}],
    "expected_queues": ["cpu"],
    "alarms": [],
}
POSTGRES = {
    "version": "17.6",
    "connections": {"active": 1, "idle": 4},
    "max_connections": 100,
    "size_bytes": 9_000_000,
    "schedulers": ["sched1"],
    "dags": {"total": 2, "import_errors": 0, "import_error_files": []},
}
VACUUM = {"age_seconds": 40_000, "error": None, "rows": 1200, "stopped_early": False}


def reports() -> dict[str, dict[str, Any]]:
    healthy = {
        name: {
            "units": [{"name": f"{tier}.service", "state": "active", "expected": "active"}],
            "failed_units": [],
            "versions": {"debian": "13.1"},
            "disks": [{"path": "/", "used_percent": 40}],
            "errors": {},
        }
        for name, tier in TIERS.items()
    }
    healthy["web1"]["share"] = SHARE
    healthy["mq1"]["rabbitmq"] = RABBITMQ
    healthy["pg1"]["postgres"] = POSTGRES
    return copy.deepcopy(healthy)


def status(answers: dict[str, dict[str, Any]], **errors: str) -> FleetStatus:
    """Build a status; a host without an answer is unreachable, one with an error gave no report."""
    seen = [
        Observation(
            Host(name, f"10.0.0.{number}", tier),
            reachable=name in answers or name in errors,
            report=answers.get(name, {}),
            error=errors.get(name, ""),
        )
        for number, (name, tier) in enumerate(TIERS.items())
    ]
    return FleetStatus("lab", seen)


def only_problem(answers: dict[str, dict[str, Any]]) -> str:
    found = status(answers)
    assert found.exit_code is ExitCode.CHECK_FAILED
    (problem,) = found.problems
    assert "; type: .venv/bin/ansible" in problem
    assert " -i inventories/lab " in problem
    return problem


def test_healthy_fleet_has_no_problem() -> None:
    found = status(reports())
    assert found.problems == []
    assert found.exit_code is ExitCode.DONE


def test_unit_in_the_wrong_state_is_named_with_its_journal() -> None:
    answers = reports()
    answers["cpu1"]["units"][0]["state"] = "failed"
    answers["cpu1"]["failed_units"] = ["worker.service"]
    problem = only_problem(answers)
    assert problem.startswith("cpu1: worker.service is failed, should be active")
    assert problem.endswith("cpu1 -ba 'journalctl -n 50 -u worker.service'")


def test_running_unit_that_should_be_stopped_is_a_problem() -> None:
    answers = reports()
    answers["sched2"]["units"][0]["expected"] = "inactive"
    assert only_problem(answers).startswith("sched2: scheduler.service is active, should be inactive")


def test_failed_unit_outside_the_fleet_is_a_problem() -> None:
    answers = reports()
    answers["lb1"]["failed_units"] = ["cron.service"]
    assert only_problem(answers).startswith("lb1: cron.service has failed")


def test_queue_without_consumer_is_a_problem() -> None:
    answers = reports()
    answers["mq1"]["rabbitmq"]["queues"][0]["consumers"] = 0
    assert only_problem(answers).startswith("mq1: queue cpu has no consumer")


def test_queue_that_is_missing_is_a_problem_that_a_converge_mends() -> None:
    answers = reports()
    answers["mq1"]["rabbitmq"]["expected_queues"] = ["cpu", "io"]
    said = only_problem(answers)
    assert said.startswith("mq1: queue io is missing")
    assert "site.yml --tags rabbitmq" in said


def test_broker_alarm_is_a_problem() -> None:
    answers = reports()
    answers["mq1"]["rabbitmq"]["alarms"] = ["disk"]
    assert "alarm disk" in only_problem(answers)


@pytest.mark.parametrize(
    ("schedulers", "text"), [([], "no scheduler is active on sched1, sched2"), (["sched1", "sched2"], "should be 1")]
)
def test_any_number_of_active_schedulers_but_one_is_a_problem(schedulers: list[str], text: str) -> None:
    answers = reports()
    answers["pg1"]["postgres"]["schedulers"] = schedulers
    assert text in only_problem(answers)


@pytest.mark.parametrize("hostname", ["sched2", "sched2.example.org", "10.0.0.3"])
def test_active_scheduler_is_known_by_any_of_its_names(hostname: str) -> None:
    answers = reports()
    answers["pg1"]["postgres"]["schedulers"] = [hostname]
    found = status(answers)
    assert (found.active_schedulers, found.standby_schedulers) == (["sched2"], ["sched1"])


def test_share_that_is_not_mounted_is_a_problem() -> None:
    answers = reports()
    answers["web1"]["share"] |= {"mounted": False, "responding": False}
    assert only_problem(answers).startswith("web1: the DAG share is not mounted at /srv/airflow/dags")


def test_share_that_hangs_everywhere_is_told_once() -> None:
    answers = reports()
    answers["web1"]["share"] = answers["cpu1"]["share"] = SHARE | {"responding": False}
    assert only_problem(answers).startswith("nfs1: the DAG share does not respond on web1, cpu1")


def test_current_release_that_hosts_refuse_is_told_once_for_all_of_them() -> None:
    answers = reports()
    refusal = "release X is not signed; look at it, then type: ops releases sign X"
    answers["web1"]["share"] = answers["cpu1"]["share"] = SHARE | {"refusal": refusal}
    # The refusal names the command itself.
    assert status(answers).problems == [f"web1, cpu1: the current release is refused: {refusal}"]


def test_mount_unit_that_is_down_is_told_once() -> None:
    answers = reports()
    answers["web1"]["units"].append({"name": SHARE["unit"], "state": "inactive", "expected": "active"})
    answers["web1"]["share"] |= {"mounted": False, "responding": False}
    assert only_problem(answers).startswith("web1: srv-airflow-dags.mount is inactive")


def test_import_errors_are_counted_and_named() -> None:
    answers = reports()
    answers["pg1"]["postgres"]["dags"] |= {"import_errors": 1, "import_error_files": ["bad.py"]}
    assert only_problem(answers).startswith("1 DAG file cannot be imported: bad.py")


@pytest.mark.parametrize(("percent", "problems"), [(90, 0), (91, 1)])
def test_disk_is_a_problem_above_ninety_percent(percent: int, problems: int) -> None:
    answers = reports()
    answers["nfs1"]["disks"][0]["used_percent"] = percent
    assert len(status(answers).problems) == problems


def test_probe_error_is_a_problem() -> None:
    answers = reports()
    answers["lb1"]["errors"] = {"versions": "dpkg-query: no answer\nwithin 2 s"}
    assert only_problem(answers).startswith("lb1: the versions probe failed: dpkg-query: no answer within 2 s")


def test_probe_error_of_a_service_that_is_down_is_told_once() -> None:
    answers = reports()
    answers["mq1"]["units"][0]["state"] = "inactive"
    del answers["mq1"]["rabbitmq"]
    answers["mq1"]["errors"] = {"rabbitmq": "connection refused"}
    assert only_problem(answers).startswith("mq1: broker.service is inactive")


def test_host_without_an_agent_is_degraded_not_unreachable() -> None:
    answers = reports()
    del answers["lb1"]
    found = status(answers, lb1="sudo: ops-agent: command not found")
    assert found.exit_code is ExitCode.CHECK_FAILED
    assert "ops-agent gave no report" in found.problems[0]
    assert found.problems[0].endswith("site.yml --tags ops_agent --limit lb1")


def test_unreachable_host_wins_over_a_degraded_fleet() -> None:
    answers = reports()
    del answers["cpu1"]
    answers["lb1"]["failed_units"] = ["cron.service"]
    found = status(answers)
    assert found.exit_code is ExitCode.UNREACHABLE
    assert any(problem.startswith("cpu1 (10.0.0.4) is unreachable") for problem in found.problems)


def test_unreachable_database_is_told_once() -> None:
    answers = reports()
    del answers["pg1"]
    assert len(status(answers).problems) == 1


def test_json_has_the_promised_keys() -> None:
    document = status(reports()).as_json()
    assert set(document) == {"env", "healthy", "problems", "scheduler", "hosts", "queues", "database", "dags"}
    assert document["healthy"] is True
    assert document["scheduler"] == {
        "active": "sched1", "standby": ["sched2"], "mode": "single", "ready": [], "epoch": None, "lease_age_s": None,
    }  # fmt: skip
    assert {"name", "tier", "address", "reachable", "units"} <= set(document["hosts"][0])
    assert document["hosts"][0]["units"] == [{"name": "lb.service", "state": "active"}]
    assert document["queues"] == [{"name": "cpu", "ready": 3, "unacked": 1, "consumers": 1}]
    assert document["database"]["max_connections"] == 100
    assert document["dags"] == {
        "total": 2,
        "import_errors": 0,
        "import_error_files": [],
        "paused_with_queued_runs": {},
    }


def under_the_lease(**lease: Any) -> dict[str, dict[str, Any]]:
    """Give the reports of a healthy fleet in mode active_standby, sched1 active, with another lease if so asked."""
    answers = reports()
    for name in ("sched1", "sched2"):
        answers[name]["units"] = [{"name": "airflow-scheduler.service", "state": "active", "expected": "active"}]
        answers[name]["keeper"] = {"state": "standby", "ready": True}
    answers["sched1"]["keeper"] = {"state": "active", "ready": False}
    hosts = [
        {"name": "sched1", "active": True, "ready": False},
        {"name": "sched2", "active": False, "ready": True},
    ]
    answers["pg1"]["postgres"]["lease"] = {
        "epoch": 7, "holder": "sched1", "live": True, "fenced": True, "suspended": False, "age_s": 0.4, "held_s": 600.0,
        "hosts": hosts, **lease,
    }  # fmt: skip
    return answers


def test_pair_under_the_lease_is_healthy_and_told_in_full() -> None:
    found = status(under_the_lease())
    assert found.problems == []
    document = found.as_json()
    assert document["scheduler"] == {
        "active": "sched1", "standby": ["sched2"], "mode": "active_standby", "ready": ["sched2"], "epoch": 7,
        "lease_age_s": 0.4,
    }  # fmt: skip
    assert "lease" not in document["database"]


def test_lease_decides_who_is_active_before_the_heartbeats_do() -> None:
    answers = under_the_lease(holder="sched2", held_s=1.0)
    found = status(answers)
    assert (found.active_schedulers, found.standby_schedulers) == (["sched2"], ["sched1"])


@pytest.mark.parametrize(
    ("lease", "text"),
    [
        ({"holder": None, "live": False}, "no scheduler is active: nobody holds the lease since epoch 7"),
        ({"live": False, "age_s": 21.4}, "no scheduler is active: sched1's lease, epoch 7, was renewed 21 s ago"),
        ({"fenced": False}, "sched1 holds the lease and starts no scheduler: the old one is not proved to be fenced"),
    ],
)
def test_lease_without_an_active_scheduler_is_a_problem(lease: dict[str, Any], text: str) -> None:
    found = status(under_the_lease(**lease))
    assert found.exit_code is ExitCode.CHECK_FAILED
    (problem,) = found.problems
    assert problem.startswith(text)
    assert "; type: " in problem


def renamed(answers: dict[str, dict[str, Any]], names: dict[str, str], airflow: list[str]) -> FleetStatus:
    """Call hosts otherwise in the inventory and the lease; `airflow` is what the schedulers call themselves."""
    seen = [
        Observation(Host(names.get(name, name), f"10.0.0.{number}", tier), reachable=True, report=answers[name])
        for number, (name, tier) in enumerate(TIERS.items())
    ]
    postgres = answers["pg1"]["postgres"]
    postgres["schedulers"] = airflow
    postgres["lease"]["holder"] = names["sched1"]
    for row in postgres["lease"]["hosts"]:
        row["name"] = names[row["name"]]
    return FleetStatus("lab", seen)


@pytest.mark.parametrize("airflow", ["sched1", "sched1.example.org", "SCHED1", "10.0.0.2"])
@pytest.mark.parametrize("domain", ["", ".example.org"])
def test_short_and_full_names_mean_the_same_host(airflow: str, domain: str) -> None:
    names = {name: name + domain for name in ("sched1", "sched2")}
    found = renamed(under_the_lease(), names, [airflow])
    assert (found.problems, found.beating_schedulers) == ([], [names["sched1"]])


def test_hosts_that_differ_in_their_domains_alone_are_not_mixed_up() -> None:
    names = {"sched1": "sched.b.example.org", "sched2": "sched.a.example.org"}
    found = renamed(under_the_lease(), names, ["sched.b.example.org"])
    assert (found.problems, found.beating_schedulers) == ([], ["sched.b.example.org"])
    assert renamed(under_the_lease(), names, ["sched"]).beating_schedulers == ["sched"]
    assert renamed(under_the_lease(), names, ["sched.c.example.org"]).beating_schedulers == ["sched.c.example.org"]


def test_holder_without_a_heartbeat_is_a_problem_once_it_had_time_for_one() -> None:
    answers = under_the_lease(held_s=2.0)
    answers["pg1"]["postgres"]["schedulers"] = []
    assert status(answers).problems == []
    answers["pg1"]["postgres"]["lease"]["held_s"] = 11.0
    assert only_problem(answers).startswith("sched1 holds the lease, but its scheduler has no fresh heartbeat")


@pytest.mark.parametrize("where", ["the database", "the keeper"])
def test_standby_that_is_not_ready_is_a_problem(where: str) -> None:
    answers = under_the_lease()
    if where == "the keeper":
        answers["sched2"]["keeper"]["ready"] = False
    else:
        answers["pg1"]["postgres"]["lease"]["hosts"][1]["ready"] = False
    assert only_problem(answers).startswith("no standby is ready to take over from sched1: sched2 cannot")


def test_all_schedulers_are_active_where_the_lease_is_suspended() -> None:
    answers = under_the_lease(suspended=True)
    answers["pg1"]["postgres"]["schedulers"] = ["sched1", "sched2"]
    found = status(answers)
    assert (found.problems, found.mode) == ([], "active_active")
    answers["pg1"]["postgres"]["schedulers"] = ["sched2"]
    assert "1 schedulers are active, sched2, should be 2" in only_problem(answers)


def test_runs_that_wait_for_a_paused_dag_are_told_and_no_problem() -> None:
    answers = reports()
    answers["pg1"]["postgres"]["dags"] |= {"paused_with_queued_runs": {"fleet_chain": 2}}
    found = status(answers)
    assert found.problems == []
    assert found.as_json()["dags"]["paused_with_queued_runs"] == {"fleet_chain": 2}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(draw.fleet(found))
    assert "fleet_chain is paused, and 2 runs wait in its queue" in console.export_text()


def test_unknown_database_leaves_the_mode_unknown() -> None:
    answers = under_the_lease()
    del answers["pg1"]
    assert status(answers).as_json()["scheduler"]["mode"] is None


def test_failed_vacuum_is_a_problem() -> None:
    answers = reports()
    answers["pg1"]["vacuum"] = VACUUM | {"error": "no space left on device"}
    assert only_problem(answers).startswith("pg1: the last vacuum of the metadata database failed: no space left")


def test_failed_vacuum_whose_unit_failed_is_told_once() -> None:
    answers = reports()
    answers["pg1"]["vacuum"] = VACUUM | {"error": "no space left on device"}
    answers["pg1"]["failed_units"] = ["metadata-vacuum.service"]
    assert only_problem(answers).startswith("pg1: metadata-vacuum.service has failed")


def test_vacuum_is_missed_after_three_days() -> None:
    answers = reports()
    answers["pg1"]["vacuum"] = VACUUM | {"age_seconds": 3 * 86400}
    assert status(answers).problems == []
    answers["pg1"]["vacuum"]["age_seconds"] += 1
    assert "3 days ago" in only_problem(answers)


def test_fleet_that_never_vacuumed_is_healthy() -> None:
    answers = reports()
    answers["pg1"]["vacuum"] = dict.fromkeys(VACUUM)
    assert status(answers).problems == []
    assert status(answers).as_json()["database"]["last_vacuum"]["age_seconds"] is None
