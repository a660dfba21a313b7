"""HAProxy's rendered configuration passes HAProxy 3's own check and says what was asked for."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.config import plays

PASSWORDS = {"haproxy_stats_password": "kR9vX2mQ7tLw4zBa"}
FILES = ("unavailable.html", "users.cfg", "haproxy.cfg")
KEY = Path("/var/lib/airfleet/lab/ssh/id_ed25519")

Check = Callable[[Path], subprocess.CompletedProcess[str]]


def _render(out: Path, **variables: Any) -> Path:
    preflight = {"ansible.builtin.include_role": {"name": "haproxy", "tasks_from": "preflight.yml", "public": True}}
    templates = [plays.template(f"haproxy/{name}.j2", out / name) for name in FILES]
    given = PASSWORDS | {"haproxy_error_page": str(out / "unavailable.html")} | variables
    plays.run([plays.play("lb1", given, plays.FACTS, preflight, *templates)], out)
    return out


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _render(tmp_path_factory.mktemp("haproxy"))


@pytest.fixture(scope="module")
def check() -> Check:
    """Return HAProxy's check of a directory: by this machine's HAProxy if it has version 3, else by the lab's lb1."""
    local = shutil.which("haproxy")
    version = subprocess.run([local, "-v"], capture_output=True, text=True, check=True).stdout if local else ""
    words = ["haproxy"]
    if not re.search(r"version [3-9]\.", version):
        options = ["-o", f"UserKnownHostsFile={KEY.parent / 'known_hosts'}", "-o", "BatchMode=yes"]
        words = ["ssh", "-i", str(KEY), *options, "fleet@10.77.0.11", "sudo", "/usr/sbin/haproxy"]

    def run(directory: Path) -> subprocess.CompletedProcess[str]:
        text = "".join((directory / name).read_text() for name in ("users.cfg", "haproxy.cfg"))
        if words[0] == "ssh":
            text = text.replace(str(directory), "/etc/haproxy")
        command = [*words, "-c", "-f", "/dev/stdin"]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)

    return run


def _section(directory: Path, name: str) -> list[str]:
    text = (directory / "haproxy.cfg").read_text()
    found = re.search(rf"^{name}\n((?:[ ]+.*\n|\n)*)", text, re.MULTILINE)
    assert found, name
    return [line.strip() for line in found[1].splitlines() if line.strip() and not line.strip().startswith("#")]


def test_configuration_passes_haproxys_check(rendered: Path, check: Check) -> None:
    done = check(rendered)
    assert done.returncode == 0, done.stderr


def test_configuration_of_one_server_and_no_scraper_passes(tmp_path: Path, check: Check) -> None:
    servers = [{"name": "only", "address": "192.0.2.5"}]
    out = _render(tmp_path, haproxy_api_servers=servers, haproxy_metrics_addresses=[])
    done = check(out)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr.replace("server state file", ""), done.stderr


def test_configuration_behind_two_trusted_proxies_passes(tmp_path: Path, check: Check) -> None:
    done = check(_render(tmp_path, haproxy_trusted_proxy_addresses=["192.0.2.5", "2001:db8::/64"]))
    assert done.returncode == 0, done.stderr


def test_every_frontend_answers_with_the_same_headers(rendered: Path) -> None:
    sections = [_section(rendered, f"frontend {name}") for name in ("ui", "execution", "stats")]
    given = [{line for line in section if line.startswith("http-after-response")} for section in sections]
    assert len(given[1]) == 6
    assert given[1] == given[2] == {line for line in given[0] if "txn.proto" not in line}


def test_check_refuses_a_broken_configuration(rendered: Path, tmp_path: Path, check: Check) -> None:
    for name in FILES:
        shutil.copy(rendered / name, tmp_path)
    text = (tmp_path / "haproxy.cfg").read_text().replace("default_backend api_servers", "default_backend nowhere")
    (tmp_path / "haproxy.cfg").write_text(text.replace(str(rendered), str(tmp_path)))
    assert check(tmp_path).returncode != 0


def test_every_api_server_of_the_inventory_is_balanced_without_stickiness(rendered: Path) -> None:
    backend = _section(rendered, "backend api_servers")
    servers = [line.split()[1:3] for line in backend if line.startswith("server ")]
    assert servers == [["web1", "10.77.0.21:8080"], ["web2", "10.77.0.22:8080"], ["web3", "10.77.0.23:8080"]]
    assert not [line for line in backend if line.startswith(("cookie", "stick", "balance source"))]


def test_only_harmless_requests_are_sent_twice(rendered: Path) -> None:
    backend = _section(rendered, "backend api_servers")
    assert "retries 3" in backend
    assert "option redispatch 1" in backend
    assert "http-request disable-l7-retry unless { method GET HEAD OPTIONS }" in backend


def test_password_is_in_the_closed_file_alone(rendered: Path) -> None:
    assert PASSWORDS["haproxy_stats_password"] in (rendered / "users.cfg").read_text()
    assert PASSWORDS["haproxy_stats_password"] not in (rendered / "haproxy.cfg").read_text()


def test_lab_balancer_stays_under_its_file_limit(rendered: Path) -> None:
    # two files a connection, and a lab host often allows 20000
    [maxconn] = [line for line in _section(rendered, "global") if line.startswith("maxconn")]
    assert int(maxconn.split()[1]) * 2 < 20000


def test_error_page_fits_haproxys_buffer_and_needs_nothing_else(rendered: Path) -> None:
    page = (rendered / "unavailable.html").read_text()
    assert len(page) < 8192
    assert not re.search(r"https?://|<script|<link|<img", page)
