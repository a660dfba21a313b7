"""RabbitMQ's rendered files, and what its preflight refuses. RabbitMQ's own parser reads them on the host."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.config import plays

GOOD = "kR9vX2mQ7tLw4zBa"
SECRETS: dict[str, Any] = {
    "vault_rabbitmq_scheduler_password": f"{GOOD}1",
    "vault_rabbitmq_worker_passwords": {"cpu": f"{GOOD}5", "io": f"{GOOD}6", "memory": f"{GOOD}7"},
    "vault_rabbitmq_admin_password": f"{GOOD}2",
    "vault_rabbitmq_monitor_password": f"{GOOD}3",
    "vault_rabbitmq_erlang_cookie": f"{GOOD}4",
}
# The tests run here, where the inventory's address is not.
ADDRESS = {"rabbitmq_listen_address": "{{ ansible_facts['all_ipv4_addresses'][0] }}"}
PREFLIGHT = {"name": "rabbitmq", "tasks_from": "preflight.yml", "public": True}
FILES = (
    "roles/rabbitmq/templates/rabbitmq.conf.j2",
    "roles/rabbitmq/templates/enabled_plugins.j2",
    "roles/rabbitmq/templates/rabbitmq-env.conf.j2",
    "systemd/rabbitmq-server-airfleet.conf.j2",
    "systemd/epmd-airfleet.conf.j2",
)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("rabbitmq")
    templates = [plays.template(path, out / Path(path).name) for path in FILES]
    definitions = plays.write("{{ __rabbitmq_definitions | to_nice_json }}", out / "definitions.json")
    preflight = {"ansible.builtin.include_role": PREFLIGHT}
    variables = SECRETS | ADDRESS | {"rabbitmq_longest_task_hours": 30}
    plays.run([plays.play("mq1", variables, plays.FACTS, preflight, *templates, definitions)], out)
    return {path.name.removesuffix(".j2"): path.read_text() for path in out.iterdir() if path.suffix != ".yml"}


def _settings(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    settings = dict(line.split(" = ") for line in lines)
    assert len(settings) == len(lines)
    return settings


def test_consumer_timeout_is_above_the_longest_task(rendered: dict[str, str]) -> None:
    assert int(_settings(rendered["rabbitmq.conf"])["consumer_timeout"]) == 31 * 3600 * 1000


def test_alarms_are_in_units_that_rabbitmq_reads(rendered: dict[str, str]) -> None:
    settings = _settings(rendered["rabbitmq.conf"])
    assert settings["total_memory_available_override_value"] == "1024MiB"
    assert settings["disk_free_limit.absolute"] == "1024MiB"
    assert 0 < float(settings["vm_memory_high_watermark.relative"]) < 1


def test_nothing_listens_on_every_address(rendered: dict[str, str]) -> None:
    settings = _settings(rendered["rabbitmq.conf"])
    address = settings["management.tcp.ip"]
    assert address.count(".") == 3
    assert settings["listeners.tcp.1"] == f"{address}:5672"
    assert settings["prometheus.tcp.ip"] == settings["distribution.listener.interface"] == address
    assert rendered["epmd-airfleet.conf"].splitlines().count("ListenStream=") == 1
    assert f"ListenStream={address}:4369" in rendered["epmd-airfleet.conf"]


def test_definitions_carry_hashes_and_no_password(rendered: dict[str, str]) -> None:
    definitions = json.loads(rendered["definitions.json"])
    assert {user["name"]: user["tags"] for user in definitions["users"]} == {
        "scheduler": [],
        "worker_cpu": [],
        "worker_io": [],
        "worker_memory": [],
        "admin": ["administrator"],
        "monitor": ["monitoring"],
    }
    assert [vhost["metadata"]["default_queue_type"] for vhost in definitions["vhosts"]] == ["quorum"]
    assert [name for name, text in rendered.items() if GOOD in text] == []


def test_programs_may_do_what_their_part_asks_for(rendered: dict[str, str]) -> None:
    definitions = json.loads(rendered["definitions.json"])
    assert {item["vhost"] for item in definitions["permissions"]} == {"airflow"}
    rights = {item["user"]: (item["configure"], item["write"], item["read"]) for item in definitions["permissions"]}
    assert rights.pop("admin") == (".*", ".*", ".*")
    assert rights == {
        "scheduler": ("^$", r"^amq\.default$", "^$"),
        "worker_cpu": ("^$", "^$", "^cpu$"),
        "worker_io": ("^$", "^$", "^io$"),
        "worker_memory": ("^$", "^$", "^memory$"),
        "monitor": ("^$", "^$", "^$"),
    }


def test_queues_are_there_for_every_pool_and_drop_nothing(rendered: dict[str, str]) -> None:
    definitions = json.loads(rendered["definitions.json"])
    queues = {queue["name"]: (queue["durable"], queue["arguments"]) for queue in definitions["queues"]}
    assert queues == dict.fromkeys(["cpu", "io", "memory"], (True, {"x-queue-type": "quorum"}))
    (policy,) = definitions["policies"]
    assert (policy["apply-to"], policy["definition"]) == ("quorum_queues", {"delivery-limit": -1})


def test_node_is_named_after_its_host(rendered: dict[str, str]) -> None:
    assert "NODENAME=rabbit@mq1" in rendered["rabbitmq-env.conf"].splitlines()


def test_plugins_are_an_erlang_term(rendered: dict[str, str]) -> None:
    assert rendered["enabled_plugins"].splitlines()[-1] == "[rabbitmq_management,rabbitmq_prometheus]."


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"vault_rabbitmq_admin_password": ""}, "rabbitmq_admin_password (missing or empty)"),
    "default": ({"vault_rabbitmq_scheduler_password": "guest"}, "rabbitmq_scheduler_password (a default password)"),
    "no pool": ({"vault_rabbitmq_worker_passwords": {}}, "rabbitmq_worker_passwords.cpu (missing or empty)"),
    "short": ({"vault_rabbitmq_erlang_cookie": "Ab1"}, "rabbitmq_erlang_cookie (shorter than 16 characters)"),
    "shared": ({"vault_rabbitmq_admin_password": f"{GOOD}1"}, "are the same"),
    "cookie": ({"vault_rabbitmq_erlang_cookie": f"{GOOD}'+.4"}, "rabbitmq_erlang_cookie must be letters and digits"),
    "wildcard": ({"rabbitmq_listen_address": "0.0.0.0"}, "(0.0.0.0) must be one of the machine's"),  # noqa: S104
    "hours": ({"rabbitmq_longest_task_hours": 0}, "rabbitmq_longest_task_hours (0) at least 1"),
    "watermark": ({"rabbitmq_memory_high_watermark": 1.5}, "rabbitmq_memory_high_watermark (1.5)"),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cases = {name: SECRETS | ADDRESS | variables for name, (variables, _) in REFUSED.items()}
    return plays.refusals("mq1", "rabbitmq", cases, tmp_path_factory.mktemp("preflight"))


@pytest.mark.parametrize("case", REFUSED)
def test_preflight_refuses_and_names_what_to_set(refusals: dict[str, str], case: str) -> None:
    assert REFUSED[case][1] in refusals[case]
    assert refusals[case].startswith("mq1: ")
    assert GOOD not in refusals[case]
