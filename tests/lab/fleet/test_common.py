"""Every machine knows the others, has the same users, keeps its journal and got its kernel settings."""

from typing import Any

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://fleet"]


@pytest.mark.parametrize(("name", "number"), [("airflow", 5000), ("dagpublisher", 5001)])
def test_service_user_has_one_number_everywhere_and_no_login(host: Host, name: str, number: int) -> None:
    user = host.user(name)
    assert (user.uid, user.gid, user.shell) == (number, number, "/usr/sbin/nologin")


def test_host_table_names_the_whole_fleet(host: Host, inventory: Any) -> None:
    table = host.file("/etc/hosts")
    assert table.mode == 0o644
    entries = {tuple(line.split()) for line in table.content_string.splitlines() if line and line[0].isdigit()}
    assert {(other.address, other.name) for other in inventory.hosts} <= entries
    assert ("127.0.0.1", "localhost") in entries


def test_clock_is_utc(host: Host) -> None:
    assert host.check_output("date +%Z") == "UTC"


def test_journal_is_on_disk_and_limited(host: Host) -> None:
    settings = host.check_output("systemd-analyze cat-config systemd/journald.conf")
    assert "Storage=persistent" in settings
    assert "SystemMaxUse=1G" in settings
    assert host.run("test -n \"$(find /var/log/journal -name 'system.journal')\"").rc == 0


def test_services_may_open_enough_files(host: Host) -> None:
    assert int(host.check_output("systemctl show -P DefaultLimitNOFILESoft")) == 65536


def test_settings_of_the_network_are_in_force(host: Host) -> None:
    """A container may set nothing but net.*, so that is what the lab can show."""
    wanted = dict(
        line.split(" = ")
        for line in host.file("/etc/sysctl.d/60-airfleet.conf").content_string.splitlines()
        if line.startswith("net.")
    )
    assert "net.ipv4.tcp_keepalive_time" in wanted
    found = {key: " ".join(host.check_output(f"sysctl -n {key}").split()) for key in wanted}
    assert found == wanted
