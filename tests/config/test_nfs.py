"""The share's rendered files, and what its preflight refuses. exportfs itself reads the exports in tests/lab/share."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.config import plays

ADDRESS = {"nfs_server_listen_address": "{{ ansible_facts['all_ipv4_addresses'][0] }}"}
PREFLIGHT = {"name": "nfs_server", "tasks_from": "preflight.yml", "public": True}
TEMPLATES = Path("roles/nfs_server/templates")
PUBLISHER = "10.77.0.31"
OTHERS = [f"10.77.0.{last}" for last in (21, 22, 23, 32, 41, 42, 43)]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("nfs")
    server = [
        plays.template(str(TEMPLATES / f"{name}.j2"), out / name)
        for name in ("airfleet.exports", "ganesha.conf", "nfs.conf")
    ]
    client = plays.template("systemd/srv-airflow-dags.mount.j2", out / "srv-airflow-dags.mount")
    roles = [{"ansible.builtin.include_role": PREFLIGHT | {"name": name}} for name in ("nfs_server", "nfs_client")]
    plays.run(
        [
            plays.play("nfs1", ADDRESS, plays.FACTS, roles[0], *server),
            plays.play("web1", {}, plays.FACTS, roles[1], client),
        ],
        out,
    )
    return {path.name: path.read_text() for path in out.iterdir() if path.suffix != ".yml"}


def _exports(text: str) -> dict[str, str]:
    directory, *clients = re.sub(r"^#.*\n|\\\n", " ", text, flags=re.MULTILINE).split()
    assert directory == "/srv/nfs/dags"
    return dict(client.rstrip(")").split("(") for client in clients)


def test_kernel_exports_to_the_fleet_and_lets_the_publisher_alone_write(rendered: dict[str, str]) -> None:
    exports = _exports(rendered["airfleet.exports"])
    assert set(exports) == {*OTHERS, PUBLISHER}
    given = {address: set(options.split(",")) for address, options in exports.items()}
    assert {address for address, options in given.items() if "rw" in options} == {PUBLISHER}
    assert {address for address, options in given.items() if "ro" in options} == set(OTHERS)
    # A port below 1024: no task can have one.
    assert all({"secure", "root_squash", "sync", "sec=sys"} <= options for options in given.values())


def test_kernel_speaks_version_4_alone(rendered: dict[str, str]) -> None:
    assert {"vers3 = n", "vers4 = y"} <= set(rendered["nfs.conf"].splitlines())


def test_ganesha_exports_to_the_fleet_and_lets_the_publisher_alone_write(rendered: dict[str, str]) -> None:
    blocks = re.findall(r"CLIENT \{(.*?)\}", rendered["ganesha.conf"], re.DOTALL)
    clients = [dict(re.findall(r"(\w+) = (.+?);", block)) for block in blocks]
    access = {client["Access_Type"]: client["Clients"].split(", ") for client in clients}
    # In the inventory's order: a set's would differ from run to run and restart the server each time.
    assert access == {"RW": [PUBLISHER], "RO": OTHERS}
    assert set(re.findall(r"Squash = (.+?);", rendered["ganesha.conf"])) == {"Root_Squash"}
    assert set(re.findall(r"PrivilegedPort = (.+?);", rendered["ganesha.conf"])) == {"true"}
    assert "Access_Type = NONE;" in rendered["ganesha.conf"].split("CLIENT")[0]
    assert set(re.findall(r"Protocols = (.+?);", rendered["ganesha.conf"])) == {"4"}


def test_mount_waits_for_its_server_and_holds_up_neither_boot_nor_shutdown(rendered: dict[str, str]) -> None:
    lines = dict(
        line.split("=", 1) for line in rendered["srv-airflow-dags.mount"].splitlines() if re.match(r"\w+=", line)
    )
    assert lines["What"] == "10.77.0.71:/srv/nfs/dags"
    assert {"hard", "nofail", "retry=10000", "timeo=100", "actimeo=1"} <= set(lines["Options"].split(","))
    assert lines["TimeoutSec"] == "infinity"
    assert lines["LazyUnmount"] == "yes"
    assert lines["UpheldBy"] == "multi-user.target"


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "nobody": ("nfs_server", {"nfs_server_client_addresses": []}, "nfs_server_client_addresses () must be"),
    "network": ("nfs_server", {"nfs_server_client_addresses": ["10.77.0.0/24"]}, "(10.77.0.0/24) must be single"),
    "stranger": (
        "nfs_server",
        {"nfs_server_publisher_address": "10.77.0.9"},
        "nfs_server_publisher_address (10.77.0.9)",
    ),
    "kind": ("nfs_server", {"nfs_server_implementation": "samba"}, "(samba) auto, kernel or ganesha"),
    "elsewhere": ("nfs_server", {"nfs_server_listen_address": "192.0.2.1"}, "(192.0.2.1) must be one of the machine's"),
    "relative": ("nfs_client", {"nfs_client_directory": "srv/dags"}, "nfs_client_directory (srv/dags)"),
    "dashed": ("nfs_client", {"nfs_client_directory": "/srv/my-dags"}, "nfs_client_directory (/srv/my-dags)"),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("preflight")
    cases = [
        plays.play(
            "nfs1",
            ADDRESS | variables,
            plays.FACTS,
            {
                # Past the choices of the arguments: these are the role's own refusals.
                "block": [{"ansible.builtin.include_role": PREFLIGHT | {"name": role, "rolespec_validate": False}}],
                "rescue": [plays.write("{{ ansible_failed_result.msg }}", out / name)],
            },
        )
        for name, (role, variables, _) in REFUSED.items()
    ]
    plays.run(cases, out)
    return {name: (out / name).read_text() if (out / name).exists() else "" for name in REFUSED}


@pytest.mark.parametrize("case", REFUSED)
def test_preflight_refuses_and_names_what_to_set(refusals: dict[str, str], case: str) -> None:
    assert REFUSED[case][2] in refusals[case]
    assert refusals[case].startswith("nfs1: ")
