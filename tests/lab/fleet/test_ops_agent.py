"""Every host can answer `ops`, and none shows what it should not."""

import json

from testinfra.host import Host

testinfra_hosts = ["ansible://fleet"]


def test_agent_is_one_file_that_anyone_may_read_and_root_may_change(host: Host) -> None:
    agent = host.file("/usr/local/bin/ops-agent")
    assert (agent.mode, agent.user, agent.group) == (0o755, "root", "root")


def test_settings_are_for_root_alone(host: Host) -> None:
    assert host.file("/etc/ops-agent").mode == 0o700
    assert host.file("/etc/ops-agent/agent.json").mode == 0o600


def test_brokers_password_is_on_the_broker_alone(host: Host) -> None:
    tier = json.loads(host.file("/etc/ops-agent/agent.json").content_string)["tier"]
    password = host.file("/etc/ops-agent/rabbitmq_password")
    assert password.exists == (tier == "broker")
    assert not password.exists or password.mode == 0o600


def test_agent_reports_without_an_error(host: Host) -> None:
    report = json.loads(host.check_output("ops-agent status --json"))
    assert report["errors"] == {}
    assert report["units"]
