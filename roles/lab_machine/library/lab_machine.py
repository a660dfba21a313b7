"""Boot, describe or remove one machine of the lab."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCUMENTATION = r"""
module: lab_machine
short_description: Boot or remove a lab machine
description:
  - A machine is a systemd-nspawn container over an overlay of the base tree, with its own systemd, SSH and address.
options:
  name: {description: Name of the machine and its hostname, type: str, required: true}
  address: {description: Its IPv4 address, type: str, required: true}
  gateway: {description: Address of the bridge with its prefix, type: str, required: true}
  bridge: {description: Bridge to attach it to, type: str, required: true}
  root: {description: Directory of the lab and its caches, type: str, required: true}
  keeper: {description: Path of the lab-machine program, type: str, required: true}
  binds: {description: Host directories bound into it as source and target, type: list, elements: dict}
  system_calls: {description: System calls to permit beyond the default ones, type: list, elements: str}
  boot_timeout_seconds: {description: Time within which it must answer on SSH, type: int, default: 60}
  state: {description: What to make of it, type: str, choices: [present, absent, query], default: present}
author: airfleet
"""

ADMIN = "fleet"
ADMIN_UID = 1000
STOP_TIMEOUT_SECONDS = 40
# Of the capabilities, only those that would reach through to the host are withheld: its clock and its kernel modules.
WITHHELD_CAPABILITIES = "CAP_SYS_TIME,CAP_SYS_MODULE"


class LabError(Exception):
    """What went wrong and where to look."""


@dataclass(frozen=True)
class Settings:
    """What a machine is made with; when any of this changes, it has to boot again."""

    name: str
    address: str
    gateway: str
    bridge: str
    base: str
    binds: list[dict[str, str]] = field(default_factory=list)
    system_calls: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Paths:
    """Where the files of one machine are."""

    lab: Path
    name: str

    @property
    def machine(self) -> Path:
        """Return the overlay's upper layer, work directory and mount point."""
        return self.lab / "machines" / self.name

    @property
    def settings(self) -> Path:
        """Return the file that is written last, once the machine is complete."""
        return self.machine / "machine.json"

    @property
    def data(self) -> Path:
        """Return the directory for what must lie on the host's own filesystem."""
        return self.lab / "data" / self.name

    @property
    def pidfile(self) -> Path:
        """Return the pid file of the keeper."""
        return self.lab / "run" / f"{self.name}.pid"

    @property
    def console(self) -> Path:
        """Return the log of the console."""
        return self.lab / "run" / f"{self.name}.log"

    @property
    def host_key(self) -> Path:
        """Return the SSH host key, which outlives the machine so that it is known again when it is made anew."""
        return self.lab / "ssh" / "host_keys" / self.name


def network_unit(settings: Settings) -> str:
    """Configure the static address for systemd-networkd."""
    gateway, _, prefix = settings.gateway.partition("/")
    return (
        "[Match]\nName=host0\n\n"
        f"[Network]\nAddress={settings.address}/{prefix}\nGateway={gateway}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    )


def nspawn_options(settings: Settings, lab: Path) -> list[str]:
    """Build the options of systemd-nspawn that depend on the machine."""
    options = [
        f"--network-bridge={settings.bridge}",
        "--capability=all",
        f"--drop-capability={WITHHELD_CAPABILITIES}",
        "--bind=/dev/fuse",
        f"--bind-ro={lab / 'shared'}:/lab",
    ]
    options += [f"--bind={bind['source']}:{bind['target']}" for bind in settings.binds]
    if settings.system_calls:
        options.append(f"--system-call-filter={' '.join(settings.system_calls)}")
    return options


def keeper_command(settings: Settings, paths: Paths, keeper: str) -> list[str]:
    """Build the command that runs a machine, in a mount namespace of its own."""
    return [
        *("unshare", "--mount", "--propagation", "private"),
        *(keeper, "run", settings.name, str(paths.machine), settings.base, str(paths.pidfile)),
        *nspawn_options(settings, paths.lab),
    ]


def kept_directory(cmdline: bytes, name: str) -> Path | None:
    """Tell which directory's machine of this name a command line keeps; None when it is no keeper of that name."""
    words = cmdline.decode(errors="replace").split("\0")
    for i, word in enumerate(words[:-3]):
        if Path(word).name == "lab-machine" and words[i + 1 : i + 3] == ["run", name]:
            return Path(words[i + 3])
    return None


def running_pid(paths: Paths) -> int | None:
    """Pid of the machine's keeper, or None when it does not run; a stranger with a recycled pid does not count."""
    try:
        pid = int(paths.pidfile.read_text(encoding="ascii"))
        cmdline = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if kept_directory(cmdline, paths.name) == paths.machine else None


def namesake(paths: Paths) -> Path | None:
    """Return the directory of another lab's machine of this name that runs here.

    A machine's name is that of its cgroup, network device and unit: what is done to ours would be done to that one.
    """
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            directory = kept_directory(cmdline.read_bytes(), paths.name)
            if directory and directory != paths.machine:
                return directory
    return None


def run(*command: str) -> None:
    """Run a command; on failure raise with what it said."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


def wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Poll a condition until it holds or the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that machines booting side by side share."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file atomically, making its directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.touch(mode=mode)
    new.write_text(text, encoding="utf-8")
    new.chmod(mode)
    new.rename(path)


def make_host_key(paths: Paths, address: str) -> None:
    """Make the host key once, and rewrite known_hosts from all keys of the lab."""
    paths.host_key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(paths.host_key.parent / ".lock"):
        public = paths.host_key.with_suffix(".pub")
        if not public.exists():
            paths.host_key.unlink(missing_ok=True)
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {paths.name}", "-f", str(paths.host_key))
        kind, key, *_ = public.read_text(encoding="ascii").split()
        write(paths.host_key.with_suffix(".known"), f"{paths.name},{address} {kind} {key}\n")
        known = sorted(path.read_text(encoding="ascii") for path in paths.host_key.parent.glob("*.known"))
        write(paths.lab / "ssh" / "known_hosts", "".join(known))


def fill_upper(settings: Settings, paths: Paths) -> None:
    """Write into the overlay what makes this machine differ from the base tree."""
    upper = paths.machine / "upper"
    # The mode of a directory in the upper layer is the one that the machine sees.
    upper.mkdir(mode=0o755, parents=True, exist_ok=True)
    write(upper / "etc/hostname", f"{settings.name}\n")
    write(upper / "etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n{settings.address} {settings.name}\n")
    write(upper / "etc/systemd/network/10-lab.network", network_unit(settings))
    write(upper / "etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)
    host_key = "etc/ssh/ssh_host_ed25519_key"
    write(upper / host_key, paths.host_key.read_text(encoding="ascii"), 0o600)
    write(upper / f"{host_key}.pub", paths.host_key.with_suffix(".pub").read_text(encoding="ascii"))
    ssh = upper / "home" / ADMIN / ".ssh"
    write(ssh / "authorized_keys", (paths.lab / "ssh/id_ed25519.pub").read_text(encoding="ascii"), 0o600)
    ssh.chmod(0o700)
    for path in (ssh.parent, ssh, ssh / "authorized_keys"):
        os.chown(path, ADMIN_UID, ADMIN_UID)


def load_settings(paths: Paths) -> Settings | None:
    """Read what the machine was made with; None when it was never completed."""
    try:
        return Settings(**json.loads(paths.settings.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def make(settings: Settings, paths: Paths) -> None:
    """Write the machine's files; its upper layer, where there is one, keeps everything else."""
    for bind in settings.binds:
        Path(bind["source"]).mkdir(parents=True, exist_ok=True)
    make_host_key(paths, settings.address)
    fill_upper(settings, paths)
    write(paths.settings, json.dumps(asdict(settings), indent=2) + "\n")


def has_systemd() -> bool:
    """Tell whether systemd manages this host."""
    return Path("/run/systemd/system").is_dir()


def unit_name(name: str) -> str:
    """Name the unit of a machine's keeper where the host runs systemd."""
    return f"airfleet-lab-{name}.service"


def start(settings: Settings, paths: Paths, keeper: str) -> None:
    """Start the keeper, detached from this process."""
    paths.console.parent.mkdir(parents=True, exist_ok=True)
    command = keeper_command(settings, paths, keeper)
    if has_systemd():
        console = f"file:{paths.console}"
        properties = (
            *("Delegate=yes", "KillMode=mixed", "TasksMax=infinity", "OOMPolicy=continue"),
            *(f"TimeoutStopSec={STOP_TIMEOUT_SECONDS}", f"StandardOutput={console}", f"StandardError={console}"),
        )
        run("systemd-run", "--quiet", "--collect", f"--unit={unit_name(paths.name)}",
            *(f"--property={item}" for item in properties), *command)  # fmt: skip
        return
    with paths.console.open("wb") as log:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/")


def kill(paths: Paths, keeper: str) -> None:
    """End the keeper and every process of the machine, at once."""
    if namesake(paths):
        paths.pidfile.unlink(missing_ok=True)
        return
    pid = running_pid(paths)
    if has_systemd():
        subprocess.run(["systemctl", "kill", "--signal=KILL", unit_name(paths.name)], check=False, capture_output=True)
    elif pid:
        os.kill(pid, signal.SIGKILL)
    if not wait_until(lambda: running_pid(paths) is None, STOP_TIMEOUT_SECONDS):
        raise LabError(f"the keeper of {paths.name} (pid {pid}) does not die")
    run("unshare", "--mount", "--propagation", "private", keeper, "kill", paths.name)
    paths.pidfile.unlink(missing_ok=True)


def stop(paths: Paths, keeper: str) -> None:
    """Shut the machine down in order; kill it when it does not heed."""
    pid = running_pid(paths)
    if pid:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: running_pid(paths) is None, STOP_TIMEOUT_SECONDS)
    kill(paths, keeper)


def greets(address: str) -> bool:
    """Tell whether sshd greets."""
    try:
        with socket.create_connection((address, 22), timeout=2) as connection:
            connection.settimeout(2)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def remove(paths: Paths, keeper: str) -> None:
    """Remove the machine and its data, but never what something else has mounted there."""
    kill(paths, keeper)
    doomed = [path for path in (paths.machine, paths.data) if path.exists()]
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    foreign = [mount for mount in mounts for path in doomed if Path(mount).is_relative_to(path)]
    if foreign:
        raise LabError(f"{', '.join(foreign)} is mounted inside the lab's files: unmount it, then run this again")
    for path in doomed:
        run("rm", "-rf", "--one-file-system", "--", str(path))
    paths.console.unlink(missing_ok=True)


class Machine:
    """One machine and what was done about it."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.keeper: str = params["keeper"]
        self.paths = Paths(Path(params["root"]) / "lab", params["name"])
        self.boot_timeout_seconds: int = params["boot_timeout_seconds"]
        self.made = load_settings(self.paths)
        base = self.made.base if self.made else os.path.realpath(Path(params["root"]) / "cache/base/current")
        self.wanted = Settings(
            name=params["name"], address=params["address"], gateway=params["gateway"], bridge=params["bridge"],
            base=base, binds=params["binds"], system_calls=params["system_calls"],
        )  # fmt: skip
        self.actions: list[str] = []

    def pending(self) -> list[str]:
        """List what must be done for the machine to be present; refuse while another lab runs one of its name."""
        if other := namesake(self.paths):
            raise LabError(
                f"{self.wanted.name} runs here already, from {other}: remove that lab, or choose other names"
            )
        running = running_pid(self.paths) is not None
        if self.made is None:
            return ["make", "boot"]
        if self.made != self.wanted:
            return ["shut down", "make", "boot"] if running else ["make", "boot"]
        return [] if running else ["boot"]

    def present(self) -> None:
        """Make and boot the machine as far as that is not done already."""
        self.actions = self.pending()
        if self.made is None:
            # Nothing ever ran in a tree that was not completed, so there is nothing in it to keep.
            remove(self.paths, self.keeper)
        if "shut down" in self.actions:
            stop(self.paths, self.keeper)
        if "make" in self.actions:
            make(self.wanted, self.paths)
        if "boot" in self.actions:
            kill(self.paths, self.keeper)
            start(self.wanted, self.paths, self.keeper)
        if not wait_until(lambda: greets(self.wanted.address), self.boot_timeout_seconds):
            raise LabError(
                f"{self.wanted.name} does not answer on SSH at {self.wanted.address} after "
                f"{self.boot_timeout_seconds} s: read {self.paths.console}"
            )

    def absent(self) -> None:
        """Remove the machine."""
        if self.paths.machine.exists() or running_pid(self.paths):
            self.actions = ["remove"]
            remove(self.paths, self.keeper)

    def report(self) -> dict[str, Any]:
        """Describe the machine."""
        pid = running_pid(self.paths)
        state = "up" if pid else "down" if self.made else "absent"
        return {"pid": pid, "machine_state": state, "actions": self.actions, "changed": bool(self.actions)}


def main() -> None:
    """Run as an Ansible module."""
    spec: dict[str, dict[str, Any]] = {
        name: {"type": "str", "required": True} for name in ("name", "address", "gateway", "bridge", "root", "keeper")
    }
    spec["binds"] = {"type": "list", "elements": "dict", "default": []}
    spec["system_calls"] = {"type": "list", "elements": "str", "default": []}
    spec["boot_timeout_seconds"] = {"type": "int", "default": 60}
    spec["state"] = {"type": "str", "choices": ["present", "absent", "query"], "default": "present"}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    machine = Machine(module.params)
    started = time.monotonic()
    try:
        if module.check_mode and module.params["state"] == "present":
            machine.actions = machine.pending()
        elif module.params["state"] == "present":
            machine.present()
        elif module.params["state"] == "absent" and not module.check_mode:
            machine.absent()
    except (LabError, OSError, shutil.Error) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**machine.report(), seconds=round(time.monotonic() - started, 1))


if __name__ == "__main__":
    main()
