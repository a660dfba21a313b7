"""Bad input is refused before the first change, with the name of the variable or host and what to do."""

import copy
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STRONG = "kR9vX2mQ7tLw4zBa"
# Addresses of this machine alone: no run of these tests reaches another one.
HOSTS = ["lb1", "pg1", "mq1", "nfs1", "web1", "web2", "sched1", "sched2", "cpu1", "mem1", "io1"]

Inventory = dict[str, Any]
Refuse = Callable[..., str]


def _group(*hosts: str, **variables: Any) -> Inventory:
    return {"hosts": {host: {"ansible_host": f"127.0.1.{HOSTS.index(host) + 1}"} for host in hosts}, "vars": variables}


def _fleet() -> Inventory:
    scheduler = _group("sched1", "sched2")
    scheduler["hosts"]["sched1"]["airflow_scheduler_active"] = True
    scheduler["hosts"]["sched2"]["airflow_scheduler_active"] = False
    pools = {f"worker_{name}": _group(host) for name, host in (("cpu", "cpu1"), ("memory", "mem1"), ("io", "io1"))}
    for name, pool in pools.items():
        pool["vars"] = {"airflow_worker_pool": name.removeprefix("worker_")}
    airflow = {"children": {"web": _group("web1", "web2"), "scheduler": scheduler, "worker": {"children": pools}}}
    tiers = {"lb": _group("lb1"), "database": _group("pg1"), "broker": _group("mq1"), "share": _group("nfs1")}
    return {"fleet": {"children": tiers | {"airflow": airflow}}}


def schedulers(fleet: Inventory) -> dict[str, Any]:
    found: dict[str, Any] = fleet["fleet"]["children"]["airflow"]["children"]["scheduler"]["hosts"]
    return found


def pools(fleet: Inventory) -> dict[str, Any]:
    found: dict[str, Any] = fleet["fleet"]["children"]["airflow"]["children"]["worker"]["children"]
    return found


def _secrets() -> dict[str, Any]:
    wiring = "".join(path.read_text() for path in sorted((ROOT / "inventories/wiring").glob("*.yml")))
    names = re.findall(r"^  - (vault_\w+)$", wiring, re.MULTILINE)
    secrets: dict[str, Any] = {name: f"{STRONG}{number}" for number, name in enumerate(names)}
    secrets["vault_airflow_fernet_key"] = "a1I5dlgybVE3dEx3NHpCYWtSOXZYMm1RN3RMdzR6QmE="
    secrets["vault_postgres_scheduler_passwords"] = {"sched1": f"{STRONG}s1", "sched2": f"{STRONG}s2"}
    secrets["vault_rabbitmq_worker_passwords"] = {pool: f"{STRONG}{pool}" for pool in ("cpu", "memory", "io")}
    secrets["vault_postgres_keeper_passwords"] = {"sched1": f"{STRONG}k1", "sched2": f"{STRONG}k2"}
    return secrets


@pytest.fixture
def hosts() -> Inventory:
    return _fleet()


@pytest.fixture
def variables() -> dict[str, Any]:
    """Return what makes this machine pass for all of the fleet's, beside the secrets."""
    here = platform.freedesktop_os_release()
    return _secrets() | {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "airflow_scheduler_mode": "single",
        "preflight_distribution": here["ID"].capitalize(),
        "preflight_releases": [here["VERSION_ID"].split(".")[0]],
    }


@pytest.fixture
def refuse(tmp_path: Path, hosts: Inventory, variables: dict[str, Any]) -> Refuse:
    """Run the fleet check on `hosts` and `variables`; return what it said when it refused."""

    def run(*words: str) -> str:
        done = _check(tmp_path, hosts, variables, *words)
        assert done.returncode != 0, done.stdout
        assert "changed=0" in done.stdout
        return " ".join((done.stdout + done.stderr).split())

    return run


def _check(
    directory: Path, hosts: Inventory, variables: dict[str, Any], *words: str
) -> subprocess.CompletedProcess[str]:
    shared = directory / "group_vars" / "all"
    shared.mkdir(parents=True)
    (directory / "hosts.yml").write_text(yaml.safe_dump(copy.deepcopy(hosts)))
    (shared / "wiring").symlink_to(ROOT / "inventories/wiring")
    (shared / "variables.yml").write_text(yaml.safe_dump(variables))
    playbook = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(directory)]
    settings = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STRATEGY": "linear"}
    command = [*playbook, "ansible/playbooks/check-fleet.yml", *words]
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300, check=False)


def test_sound_inventory_passes(tmp_path: Path, hosts: Inventory, variables: dict[str, Any]) -> None:
    # What a machine must have of its own is the roles' business; here the inventory alone is sound.
    done = _check(tmp_path, hosts, variables, "--tags", "always,haproxy,airflow_worker,airflow_scheduler")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout


def test_two_active_schedulers_are_refused(hosts: Inventory, refuse: Refuse) -> None:
    schedulers(hosts)["sched2"]["airflow_scheduler_active"] = True
    assert "airflow_scheduler_active is true on sched1 and sched2" in refuse()


def test_no_active_scheduler_is_refused(hosts: Inventory, refuse: Refuse) -> None:
    schedulers(hosts)["sched1"]["airflow_scheduler_active"] = False
    assert "airflow_scheduler_active is true on no host" in refuse()


def test_active_flag_matters_in_mode_single_alone(tmp_path: Path, hosts: Inventory, variables: dict[str, Any]) -> None:
    for host in schedulers(hosts).values():
        del host["airflow_scheduler_active"]
    done = _check(tmp_path, hosts, variables | {"airflow_scheduler_mode": "active_standby"}, "--tags", "always")
    assert done.returncode == 0, done.stdout + done.stderr


def test_missing_groups_are_refused_all_at_once(hosts: Inventory, refuse: Refuse) -> None:
    for tier in ("lb", "broker", "share"):
        del hosts["fleet"]["children"][tier]
    assert "The inventory has no host in lb, broker, share." in refuse()


def test_pool_without_a_worker_is_refused(hosts: Inventory, refuse: Refuse) -> None:
    pools(hosts)["worker_memory"]["hosts"] = {}
    assert "The inventory has no host in worker_memory." in refuse()


def test_empty_inventory_is_refused(hosts: Inventory, refuse: Refuse) -> None:
    hosts.clear()
    hosts["fleet"] = {"hosts": {}}
    assert "The inventory has no host in fleet, lb, database" in refuse()


def test_worker_in_two_pools_is_refused(hosts: Inventory, refuse: Refuse) -> None:
    pools(hosts)["worker_memory"]["hosts"]["cpu1"] = {}
    said = refuse()
    assert "these have several: cpu1 (worker_cpu, worker_memory)." in said
    assert "a further pool" in said


def test_host_in_two_tiers_is_refused(hosts: Inventory, refuse: Refuse) -> None:
    hosts["fleet"]["children"]["lb"]["hosts"]["web1"] = {}
    hosts["fleet"]["children"]["broker"]["hosts"]["pg1"] = {}
    said = refuse()
    assert "web1 (lb, web)" in said
    assert "pg1 (database, broker)" in said


def test_host_without_a_tier_is_refused(hosts: Inventory, refuse: Refuse) -> None:
    hosts["fleet"]["children"]["airflow"]["hosts"] = {"idle1": {"ansible_host": "127.0.2.1"}}
    assert "idle1: in the inventory, but in no group that says what for." in refuse()


def test_host_outside_the_fleet_is_refused(hosts: Inventory, refuse: Refuse) -> None:
    hosts["lb"] = hosts["fleet"]["children"].pop("lb")
    assert "lb1: in a group of the fleet, but not in the group fleet itself." in refuse()


@pytest.mark.parametrize(("tier", "first"), [("database", "pg1"), ("broker", "mq1"), ("share", "nfs1")])
def test_second_host_that_would_not_be_used_is_refused(hosts: Inventory, refuse: Refuse, tier: str, first: str) -> None:
    hosts["fleet"]["children"][tier]["hosts"]["second"] = {"ansible_host": "127.0.2.1"}
    assert f"{tier} has {first}, second: the fleet would use {first} alone." in refuse()


def test_address_of_two_hosts_is_refused(hosts: Inventory, refuse: Refuse) -> None:
    web = hosts["fleet"]["children"]["airflow"]["children"]["web"]["hosts"]
    web["web2"]["ansible_host"] = web["web1"]["ansible_host"]
    said = refuse()
    assert "ansible_host is the same for several hosts" in said
    assert f"{web['web1']['ansible_host']} (web1, web2)" in said


def test_host_without_an_address_is_refused(hosts: Inventory, refuse: Refuse) -> None:
    del hosts["fleet"]["children"]["lb"]["hosts"]["lb1"]["ansible_host"]
    assert "ansible_host is missing for lb1." in refuse()


def test_missing_secrets_are_named_all_at_once(variables: dict[str, Any], refuse: Refuse) -> None:
    names = sorted(_secrets())
    for name in names:
        del variables[name]
    said = refuse()
    assert [name for name in names if not re.search(rf"{name}(\.(sched1|cpu))? \(missing or empty\)", said)] == []
    assert "ansible-vault edit" in said


def test_default_secrets_are_refused_without_printing_any(variables: dict[str, Any], refuse: Refuse) -> None:
    variables |= {"vault_airflow_admin_password": "changeme-changeme-1", "vault_rabbitmq_admin_password": "5hort"}
    said = refuse()
    assert "vault_airflow_admin_password (a default password)" in said
    assert "vault_rabbitmq_admin_password (shorter than 16 characters)" in said
    assert "5hort" not in said
    assert STRONG not in said


def test_scheduler_host_without_its_password_is_refused(variables: dict[str, Any], refuse: Refuse) -> None:
    del variables["vault_postgres_scheduler_passwords"]["sched2"]
    assert "vault_postgres_scheduler_passwords.sched2 (missing or empty)" in refuse()


def test_unknown_pool_is_refused(hosts: Inventory, variables: dict[str, Any], refuse: Refuse) -> None:
    variables["vault_rabbitmq_worker_passwords"]["gpu"] = f"{STRONG}gpu"
    pools(hosts)["worker_cpu"]["vars"]["airflow_worker_pool"] = "gpu"
    said = refuse("--tags", "airflow_worker")
    assert "airflow_worker_pool" in said
    assert "gpu" in said
    assert "fatal: [cpu1]" in said


def test_worker_without_a_pool_is_refused(hosts: Inventory, refuse: Refuse) -> None:
    del pools(hosts)["worker_cpu"]["vars"]["airflow_worker_pool"]
    assert "airflow_worker_pool is missing for cpu1." in refuse()


def test_worker_of_two_queues_is_refused(hosts: Inventory, refuse: Refuse) -> None:
    pools(hosts)["worker_io"]["vars"]["airflow_worker_queues"] = ["io", "cpu"]
    said = refuse("--tags", "airflow_worker")
    assert "a worker serves its pool's queue alone" in said
    assert "fatal: [io1]" in said


def test_pool_without_a_broker_password_is_named(variables: dict[str, Any], refuse: Refuse) -> None:
    del variables["vault_rabbitmq_worker_passwords"]["io"]
    assert "vault_rabbitmq_worker_passwords.io (missing or empty)" in refuse()


def test_vault_of_an_earlier_version_is_told_every_name_that_is_new(variables: dict[str, Any], refuse: Refuse) -> None:
    del variables["vault_rabbitmq_worker_passwords"], variables["vault_rabbitmq_scheduler_password"]
    said = refuse()
    assert "vault_rabbitmq_scheduler_password (missing or empty)" in said
    assert all(f"vault_rabbitmq_worker_passwords.{pool} (missing or empty)" in said for pool in ("cpu", "io", "memory"))


def test_unreachable_host_is_named_with_what_to_do(hosts: Inventory, refuse: Refuse) -> None:
    # Port 1 of this machine: nothing listens there, so SSH is refused at once.
    hosts["fleet"]["children"]["lb"]["hosts"]["lb1"] |= {"ansible_connection": "ssh", "ansible_port": 1}
    said = refuse()
    assert "lb1 (127.0.1.1) gave no facts" in said
    assert "--limit 'all:!lb1'" in said


def test_limit_leaves_an_unreachable_host_out(tmp_path: Path, hosts: Inventory, variables: dict[str, Any]) -> None:
    hosts["fleet"]["children"]["lb"]["hosts"]["lb1"] |= {"ansible_connection": "ssh", "ansible_port": 1}
    done = _check(tmp_path, hosts, variables, "--limit", "all:!lb1", "--tags", "always,airflow_worker")
    assert done.returncode == 0, done.stdout + done.stderr


def test_host_without_python_is_named(hosts: Inventory, refuse: Refuse) -> None:
    hosts["fleet"]["children"]["share"]["hosts"]["nfs1"]["ansible_python_interpreter"] = "/nonexistent/python3"
    assert "nfs1 (127.0.1.4) gave no facts" in refuse()


def test_other_release_is_refused(variables: dict[str, Any], refuse: Refuse) -> None:
    variables["preflight_releases"] = ["0"]
    said = refuse("--limit", "web1")
    assert re.search(r"web1 runs \w+ [\d.]+\. The fleet needs \w+ 0 \(preflight_releases\)", said)


def test_balancer_with_colliding_ports_is_refused(variables: dict[str, Any], refuse: Refuse) -> None:
    variables["haproxy_stats_port"] = 8080
    said = refuse("--tags", "haproxy")
    assert "haproxy_ui_port, haproxy_execution_port and haproxy_stats_port of lb1 must differ" in said
