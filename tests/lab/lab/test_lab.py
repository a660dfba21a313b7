"""The lab repairs what a killed run leaves behind: proved on a second lab, two machines on a bridge of their own."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SPARE = Path("/var/lib/airfleet-test")
BRIDGE = "lab1"
ADDRESSES = {"spare1": "10.78.0.11", "spare2": "10.78.0.12"}


def play(playbook: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["ansible-playbook", *options, f"ansible/playbooks/{playbook}.yml"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def changes(output: str) -> dict[str, int]:
    """Count the changed tasks of each host, from a play's recap."""
    return {host: int(count) for host, count in re.findall(r"^(\S+)\s+: ok=.*?changed=(\d+)", output, re.MULTILINE)}


class SpareLab:
    """A lab beside the lab, driven by the same playbooks."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.inventory = directory / "hosts.json"
        self.settings = {
            "lab_host_root": str(SPARE), "lab_host_bridge": BRIDGE, "lab_host_address": "10.78.0.1/24",
            "lab_machine_root": str(SPARE), "lab_machine_bridge": BRIDGE, "lab_machine_gateway": "10.78.0.1/24",
            "ansible_managed": "Managed by a test.",
        } | settings  # fmt: skip
        hosts = {name: {"ansible_host": address} for name, address in ADDRESSES.items()}
        groups = {"fleet": {"hosts": hosts, "children": {"airflow": {}}}}
        self.inventory.write_text(json.dumps(groups), encoding="utf-8")

    def run(self, playbook: str, **settings: object) -> subprocess.CompletedProcess[str]:
        return play(playbook, "-i", str(self.inventory), "-e", json.dumps(self.settings | settings))

    def up(self, **settings: object) -> dict[str, int]:
        done = self.run("create-lab", **settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return changes(done.stdout)

    def pid(self, name: str) -> int:
        return int((SPARE / f"lab/run/{name}.pid").read_text(encoding="ascii"))

    def shell(self, name: str, command: str) -> str:
        ssh = ["ssh", "-i", f"{SPARE}/lab/ssh/id_ed25519", "-o", f"UserKnownHostsFile={SPARE}/lab/ssh/known_hosts"]
        ssh += ["-o", "BatchMode=yes", f"fleet@{ADDRESSES[name]}", command]
        return subprocess.run(ssh, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    def boot_id(self, name: str) -> str:
        """Name the boot of a machine by when its init started."""
        return self.shell(name, "stat --format=%Y%Z /proc/1; systemctl show --property=UserspaceTimestampMonotonic")


@pytest.fixture(scope="module")
def spare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpareLab]:
    lab = SpareLab(tmp_path_factory.mktemp("spare"))
    lab.run("destroy-lab")
    # Hard links: a base tree is only ever read, and building another would download every package again.
    (SPARE / "cache").mkdir(parents=True, exist_ok=True)
    if not (SPARE / "cache/base").exists():
        subprocess.run(["cp", "-al", "/var/lib/airfleet/cache/base", SPARE / "cache/base"], check=True)
    lab.up()
    yield lab
    lab.run("destroy-lab")
    shutil.rmtree(SPARE)


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="ascii")


@contextmanager
def undisturbed(lab: SpareLab, name: str) -> Iterator[None]:
    before = (lab.pid(name), lab.boot_id(name))
    yield
    assert (lab.pid(name), lab.boot_id(name)) == before


def test_create_lab_second_run_changes_nothing() -> None:
    first, done = play("create-lab"), play("create-lab")
    assert first.returncode == done.returncode == 0, first.stdout + done.stdout
    assert len(changes(done.stdout)) > 12
    assert set(changes(done.stdout).values()) == {0}


def test_spare_machines_know_their_names_and_reach_each_other(spare: SpareLab) -> None:
    assert [spare.shell(name, "hostname") for name in ADDRESSES] == list(ADDRESSES)
    assert "1 received" in spare.shell("spare1", f"sudo ping -c1 {ADDRESSES['spare2']}")


def test_spare_machines_may_use_every_core(spare: SpareLab) -> None:
    assert [spare.shell(name, "nproc") for name in ADDRESSES] == [str(len(os.sched_getaffinity(0)))] * len(ADDRESSES)


def test_killed_nspawn_boots_again_and_disturbs_nobody(spare: SpareLab) -> None:
    spare.shell("spare1", "echo kept | sudo tee /root/mark; sync")
    with undisturbed(spare, "spare2"):
        keeper = spare.pid("spare1")
        os.kill(children(keeper)[0], signal.SIGKILL)
        wait_gone(keeper)
        assert spare.up() == {"localhost": 0, "spare1": 1, "spare2": 0}
    assert spare.shell("spare1", "sudo cat /root/mark") == "kept"


def test_killed_keeper_leaves_nothing_that_stops_the_next_boot(spare: SpareLab) -> None:
    with undisturbed(spare, "spare2"):
        keeper = spare.pid("spare1")
        os.kill(keeper, signal.SIGKILL)
        wait_gone(keeper)
        assert spare.up() == {"localhost": 0, "spare1": 1, "spare2": 0}
    assert spare.shell("spare1", "systemctl is-system-running --wait") == "running"


def test_machine_reboots_from_inside_by_itself(spare: SpareLab, wait_until: Callable[..., Any]) -> None:
    before, keeper = spare.boot_id("spare1"), spare.pid("spare1")
    with suppress(subprocess.CalledProcessError):  # the connection ends with the machine
        spare.shell("spare1", "sudo systemctl reboot")
    wait_until(lambda: spare.boot_id("spare1") != before, deadline=60, what="spare1 boots again")
    assert spare.pid("spare1") == keeper


def test_machine_powered_off_from_inside_boots_again(spare: SpareLab) -> None:
    keeper = spare.pid("spare1")
    with suppress(subprocess.CalledProcessError):
        spare.shell("spare1", "sudo systemctl poweroff")
    wait_gone(keeper)
    assert spare.up() == {"localhost": 0, "spare1": 1, "spare2": 0}


def test_half_made_machine_is_made_anew(spare: SpareLab) -> None:
    stop(spare, "spare1")
    machine = SPARE / "lab/machines/spare1"
    (machine / "machine.json").unlink()
    (machine / "upper/etc/half").write_text("torn", encoding="ascii")
    assert spare.up()["spare1"] == 1
    assert spare.shell("spare1", "ls /etc/half 2>&1 || true").endswith("No such file or directory")


def test_stale_pid_file_kills_no_stranger(spare: SpareLab) -> None:
    stop(spare, "spare1")
    with subprocess.Popen(["sleep", "300"]) as stranger:
        (SPARE / "lab/run/spare1.pid").write_text(f"{stranger.pid}\n", encoding="ascii")
        assert spare.up()["spare1"] == 1
        assert stranger.poll() is None
        stranger.kill()


def test_host_reboot_is_repaired_and_data_stay(spare: SpareLab) -> None:
    spare.shell("spare1", "echo kept | sudo tee /root/mark; sync")
    for name in ADDRESSES:
        stop(spare, name)
    os.kill(int((SPARE / "lab/run/apt-proxy.pid").read_text(encoding="ascii")), signal.SIGKILL)
    subprocess.run(["ip", "link", "delete", BRIDGE], check=True)
    subprocess.run(["nft", "delete", "table", "ip", f"airfleet_{BRIDGE}"], check=True)
    assert spare.up() == {"localhost": 3, "spare1": 1, "spare2": 1}
    assert spare.shell("spare1", "sudo cat /root/mark") == "kept"
    proxy = "sudo apt-get -q update >&2 && apt-config dump Acquire::http::Proxy"
    assert spare.shell("spare1", proxy) == 'Acquire::http::Proxy "http://10.78.0.1:3143";'


def test_lab_with_the_same_names_is_refused_before_any_change_and_removed_without_harm(
    spare: SpareLab, tmp_path: Path
) -> None:
    root = tmp_path / "other"
    other = SpareLab(
        tmp_path, lab_host_root=str(root), lab_host_bridge="lab2", lab_host_address="10.79.0.1/24",
        lab_machine_root=str(root), lab_machine_bridge="lab2", lab_machine_gateway="10.79.0.1/24",
    )  # fmt: skip
    with undisturbed(spare, "spare1"), undisturbed(spare, "spare2"):
        refused = other.run("create-lab")
        assert refused.returncode != 0
        assert f"spare1 of {SPARE}, spare2 of {SPARE} run here with a name" in " ".join(refused.stdout.split())
        assert not root.exists()
        assert not Path("/sys/class/net/lab2").exists()
        booting = other.run("list-lab", lab_machine_state="present")
        assert f"spare1 runs here already, from {SPARE}" in " ".join(booting.stdout.split())
        # What a lab of this name once left is removed without a hand on the machine that has the name now.
        (root / "lab/machines/spare1").mkdir(parents=True)
        removed = other.run("list-lab", lab_machine_state="absent")
        assert removed.returncode == 0, removed.stdout
        assert not (root / "lab/machines/spare1").exists()


def test_older_base_tree_stays_under_the_machines_that_have_it(spare: SpareLab) -> None:
    bases = SPARE / "cache/base"
    current = (bases / "current").resolve()
    other = bases / "0123456789ab"
    subprocess.run(["cp", "-al", current, other], check=True)
    (bases / "current").unlink()
    (bases / "current").symlink_to(other.name)
    with undisturbed(spare, "spare2"):
        stop(spare, "spare1")
        spare.up()
    assert json.loads((SPARE / "lab/machines/spare1/machine.json").read_text())["base"] == str(current)


def test_changed_settings_shut_down_and_boot_again(spare: SpareLab, tmp_path: Path) -> None:
    spare.shell("spare1", "echo kept | sudo tee /root/mark")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/file").write_text("of the host", encoding="ascii")
    binds = [{"source": str(tmp_path / "shared"), "target": "/srv/shared"}]
    assert spare.up(lab_machine_binds=binds)["spare1"] == 1
    assert spare.shell("spare1", "sudo cat /srv/shared/file /root/mark") == "of the hostkept"
    assert spare.up(lab_machine_binds=binds)["spare1"] == 0


def test_destroy_refuses_what_is_mounted_in_its_files_and_then_leaves_nothing(spare: SpareLab, tmp_path: Path) -> None:
    treasure, inside = tmp_path / "treasure", SPARE / "lab/data/spare1"
    treasure.mkdir()
    (treasure / "file").touch()
    inside.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", treasure, inside], check=True)
    refused = spare.run("destroy-lab")
    subprocess.run(["umount", inside], check=True)
    assert refused.returncode != 0
    assert f"{inside} is mounted inside the lab's files" in refused.stdout
    assert (treasure / "file").exists()
    done = spare.run("destroy-lab")
    assert done.returncode == 0, done.stdout
    assert sorted(path.name for path in (SPARE / "lab").iterdir()) == ["ssh"]
    assert not Path(f"/sys/class/net/{BRIDGE}").exists()
    assert f"airfleet_{BRIDGE}" not in output_of("nft", "list", "tables")
    assert str(SPARE) not in output_of("ps", "ax", "-o", "args")


def test_second_lab_command_names_the_first(tmp_path: Path) -> None:
    marker = tmp_path / "running"
    first = subprocess.Popen(["bin/lab-lock", "lab-up", "sh", "-c", f"touch {marker}; exec sleep 60"], cwd=ROOT)
    deadline = time.monotonic() + 10
    while not marker.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    second = subprocess.run(["bin/lab-lock", "lab-down", "true"], cwd=ROOT, capture_output=True, text=True, check=False)
    whole = subprocess.run(["make", "lab"], cwd=ROOT, capture_output=True, text=True, check=False)
    subprocess.run(["pkill", "-P", str(first.pid)], check=True)
    first.wait()
    assert second.returncode == 5
    assert f"lab: the lab is busy with make lab-up, pid {first.pid}" in whole.stderr
    assert whole.returncode != 0
    assert f"busy with make lab-up, pid {first.pid}" in second.stderr
    assert subprocess.run(["bin/lab-lock", "lab-down", "true"], cwd=ROOT, check=False).returncode == 0


def stop(lab: SpareLab, name: str) -> None:
    keeper = lab.pid(name)
    os.kill(keeper, signal.SIGKILL)
    wait_gone(keeper)


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.1)
