"""What happens to whole machines: power-off, freeze, dropped packets. Done from the host, as a hypervisor would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.lab import ADDRESS, LAB, ROOT, until

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLE = "inet chaos"


def _host(command: str, *, inside: Sequence[str] = ()) -> str:
    """Run a script on this host, or in namespaces of a process (nsenter's options)."""
    words = [*(("nsenter", *inside) if inside else ()), "bash", "-euo", "pipefail", "-c", command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def _keeper(machine: str) -> int:
    """Return the pid of the process that keeps the machine: it alone sees the machine's cgroup and files."""
    return int((LAB / "run" / f"{machine}.pid").read_text())


def _control(machine: str, file: str, text: str) -> None:
    keeper = _keeper(machine)
    own = Path(f"/proc/{keeper}/cgroup").read_text().rpartition("0::")[2].strip()
    cgroup = f"/sys/fs/cgroup{Path(own).parent}/machine"
    _host(f"echo {text} >{cgroup}/{file}", inside=["--mount", "--target", str(keeper)])


def power_off(machine: str) -> None:
    """Take the power away: nothing says goodbye, not even the kernel, whose packets no longer leave."""
    _host(f"ip link set vb-{machine} down")
    keeper = _keeper(machine)
    _control(machine, "cgroup.kill", "1")
    until(lambda: not Path(f"/proc/{keeper}").exists(), 20, f"{machine} to be off")


def power_on(machine: str) -> None:
    """Boot it with the role that made it; return when SSH answers."""
    command = [str(Path(sys.executable).with_name("ansible")), machine, "-i", "inventories/lab", "-c", "local"]
    command += ["-m", "ansible.builtin.include_role", "-a", "name=lab_machine"]
    command += ["-e", "ansible_become=false", "-e", f"lab_machine_address={ADDRESS[machine]}"]
    settings = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STRATEGY": "linear"}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def freeze(machine: str) -> None:
    """Stop every process of it, systemd and its watchdogs too, as a paused virtual machine's are."""
    _control(machine, "cgroup.freeze", "1")


def thaw(machine: str) -> None:
    """Let them go on where they were."""
    _control(machine, "cgroup.freeze", "0")


def cut(machine: str, other: str) -> None:
    """Drop, without a word, every packet between two machines; the rest of the network stays."""
    address = ADDRESS[other]
    rules = f"""
        add table {TABLE}
        add chain {TABLE} sent {{ type filter hook output priority 0; }}
        add chain {TABLE} received {{ type filter hook input priority 0; }}
        add rule {TABLE} sent ip daddr {address} drop
        add rule {TABLE} received ip saddr {address} drop
    """
    _host(f"nft -f - <<'RULES'\n{rules}\nRULES", inside=["--net", "--target", str(_inside(machine))])


def mend(machine: str) -> None:
    """Take the cut away, if there is one."""
    _host(f"nft delete table {TABLE} 2>/dev/null || true", inside=["--net", "--target", str(_inside(machine))])


def _inside(machine: str) -> int:
    """Return the pid, on this host, of the machine's own init."""
    pids = [_keeper(machine)]
    while pids:
        pid = pids.pop()
        if Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink():
            return pid
        pids += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    raise AssertionError(f"{machine} is off")
