from pathlib import Path

import pytest
import yaml

from ops_cli.console.errors import OpsError, UsageError
from ops_cli.fleet import inventory


def listing(**variables: object) -> dict[str, object]:
    return {
        "_meta": {"hostvars": {"web1": {"ansible_host": "10.0.0.1"} | variables}},
        "fleet": {"children": ["airflow"]},
        "airflow": {"children": ["web"]},
        "web": {"hosts": ["web1"]},
    }


def only_host(**variables: object) -> inventory.Host:
    (host,) = inventory.parse("test", listing(**variables)).hosts
    return host


def test_parse_reads_how_to_log_in() -> None:
    host = only_host(
        ansible_user="fleet",
        ansible_port=2222,
        ansible_ssh_private_key_file="/key",
        ansible_ssh_common_args="-o UserKnownHostsFile=/known -o ControlMaster=auto -J jump@bastion:22 -F /config",
    )
    assert host == inventory.Host(
        name="web1",
        address="10.0.0.1",
        tier="web",
        user="fleet",
        port=2222,
        identity_file="/key",
        known_hosts="/known",
        jump="jump@bastion:22",
        ssh_config="/config",
        env=host.env,
    )
    assert host.env != "lab"


@pytest.mark.parametrize("form", ["-o ProxyJump=bastion", "-oProxyJump=bastion", "-o 'ProxyJump bastion'", "-Jbastion"])
def test_parse_reads_every_form_of_an_ssh_option(form: str) -> None:
    assert only_host(ansible_ssh_common_args=form).jump == "bastion"


def test_parse_takes_the_name_where_there_is_no_address() -> None:
    assert only_host(ansible_host=None).address == "web1"


def test_parse_refuses_ssh_arguments_it_would_not_honour() -> None:
    with pytest.raises(OpsError, match=r"proxycommand.*web1.*-F"):
        only_host(ansible_ssh_common_args="-o ProxyCommand='nc %h %p'")


def test_parse_refuses_a_template_it_cannot_resolve() -> None:
    with pytest.raises(OpsError, match="ansible_host of web1 is a template"):
        only_host(ansible_host="{{ address }}")


def test_parse_refuses_a_host_outside_every_tier() -> None:
    with pytest.raises(OpsError, match="web1 is in none of the groups"):
        inventory.parse("test", {"fleet": {"hosts": ["web1"]}})


def test_parse_refuses_an_empty_fleet() -> None:
    with pytest.raises(OpsError, match="fleet has no hosts"):
        inventory.parse("test", {"fleet": {}})


def test_parse_orders_hosts_by_tier() -> None:
    groups = {"fleet": {"children": ["share", "lb"]}, "share": {"hosts": ["nfs1"]}, "lb": {"hosts": ["lb1"]}}
    assert [host.name for host in inventory.parse("test", groups).hosts] == ["lb1", "nfs1"]


def test_load_reads_the_lab_through_ansible(root: Path) -> None:
    lab = inventory.load("lab", root)
    assert len(lab.hosts) == 12
    assert [host.name for host in lab.tier("scheduler")] == ["sched1", "sched2"]
    assert {host.tier for host in lab.hosts} == set(inventory.TIERS)


def test_load_of_an_unknown_environment_lists_the_others(root: Path) -> None:
    with pytest.raises(UsageError, match=r"no environment 'moon'; there are: .*lab"):
        inventory.load("moon", root)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "inventories" / "bad" / "group_vars" / "all").mkdir(parents=True)
    (tmp_path / "inventories" / "bad" / "hosts.yml").write_text("fleet: {hosts: {web1: }}\n")
    (tmp_path / "ansible.cfg").touch()
    return tmp_path


def test_load_refuses_a_file_that_ansible_cannot_parse(home: Path) -> None:
    (home / "inventories" / "bad" / "hosts.yml").write_text("fleet: [web1, web2\n")
    with pytest.raises(OpsError, match=r"cannot read inventories/bad: .*hosts\.yml.*ansible-inventory"):
        inventory.load("bad", home)


def test_load_of_a_locked_vault_says_how_to_open_it(home: Path) -> None:
    vault = home / "inventories" / "bad" / "group_vars" / "all" / "vault.yml"
    vault.write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n")
    with pytest.raises(OpsError, match="set ANSIBLE_VAULT_PASSWORD_FILE"):
        inventory.load("bad", home)


def test_home_is_found_from_any_directory_below(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "ops_cli")
    assert inventory.find_home() == root


def test_home_named_by_the_environment_wins(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPS_HOME", str(root))
    assert inventory.find_home(tmp_path) == root


def test_home_outside_a_checkout_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="OPS_HOME"):
        inventory.find_home(tmp_path)


def test_tiers_are_those_of_the_wiring_and_of_preflight(root: Path) -> None:
    wiring = yaml.safe_load((root / "inventories/wiring/fleet.yml").read_text())
    assert tuple(wiring["__fleet_tiers"]) == inventory.TIERS
    pools = {name.partition("_")[0] for name in wiring["preflight_groups"]}
    assert pools == {"fleet", *inventory.TIERS}


def test_database_host_is_the_first_of_its_group_and_must_be_there() -> None:
    one, other = (inventory.Host(name, "10.0.0.1", "database") for name in ("pg1", "pg2"))
    assert inventory.Inventory("lab", (one, other)).database is one
    with pytest.raises(UsageError, match="inventories/lab: no host in group database"):
        _ = inventory.Inventory("lab", ()).database
