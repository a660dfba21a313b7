"""Report, in one call and without changing anything, what this machine offers the lab and what already stands."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import shutil
import socket
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: lab_host_probe
short_description: Probe this machine for the lab
description: Reads what the lab needs to know of its host; changes nothing.
options:
  root: {description: Directory of the lab and its caches, type: str, required: true}
  address: {description: Address of the bridge with its prefix, type: str, required: true}
  bridge: {description: Name of the bridge, type: str, required: true}
  machines: {description: Names of the machines that the lab is to have, type: list, elements: str, required: true}
  nft_table: {description: Name of the lab's nftables table, type: str, required: true}
  proxy_port: {description: Port of the apt proxy on the bridge, type: int, required: true}
  recipe: {description: Directory whose contents define the base tree, type: str, required: true}
  disk_min_mb: {description: Disk in MB below which the lab counts what it already takes, type: int, required: true}
  recipe_extra: {description: Further inputs of the base tree, type: list, elements: str, required: true}
  packages: {description: Debian packages the host needs, type: list, elements: str, required: true}
  directories: {description: Directories the lab needs, type: list, elements: str, required: true}
  sysctl: {description: Kernel parameters the host needs, type: dict, required: true}
author: airfleet
"""

CERTIFICATES = Path("/usr/local/share/ca-certificates")


def parse_routes(table: str) -> list[tuple[str, ipaddress.IPv4Network]]:
    """Read /proc/net/route: device and destination of each route but the default ones."""
    routes = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        destination, mask = (socket.inet_ntoa(struct.pack("<L", int(fields[i], 16))) for i in (1, 7))
        network = ipaddress.IPv4Network(f"{destination}/{mask}")
        if network.prefixlen:
            routes.append((fields[0], network))
    return routes


def range_conflicts(table: str, network: ipaddress.IPv4Network, bridge: str) -> list[str]:
    """Name the routes, of any device but our bridge, that the lab's network would shadow or be shadowed by."""
    return [f"{net} on {device}" for device, net in parse_routes(table) if device != bridge and net.overlaps(network)]


def foreign_machines(cmdlines: list[bytes], root: str, bridge: str, names: list[str]) -> list[str]:
    """Name the running machines of labs under other roots whose name or bridge this lab would take from them."""
    found = []
    for cmdline in cmdlines:
        words = cmdline.decode(errors="replace").split("\0")
        for i, word in enumerate(words[:-3]):
            if Path(word).name != "lab-machine" or words[i + 1] != "run":
                continue
            name, owner = words[i + 2], Path(words[i + 3]).parent.parent.parent
            if owner != Path(root) and (name in names or f"--network-bridge={bridge}" in words):
                found.append(f"{name} of {owner}")
    return sorted(set(found))


def running_cmdlines() -> list[bytes]:
    """Read the command line of every process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_bytes())
    return found


def usable_nameservers(resolv_conf: str) -> list[str]:
    """List the resolvers that a machine on the bridge can reach: those that are not on the host's loopback."""
    servers = [line.split()[1] for line in resolv_conf.splitlines() if line.startswith("nameserver ")]
    return [server for server in servers if not ipaddress.ip_address(server.split("%")[0]).is_loopback]


def firewall_openings(listing: str, bridge: str) -> dict[str, list[str]]:
    """Compare iptables' rules with those that let the lab through where Docker, ufw or an admin drops by default."""
    wanted = [f"FORWARD -i {bridge}", f"FORWARD -o {bridge}", f"INPUT -i {bridge}"]
    lines = listing.splitlines()
    present = [rule for rule in wanted if f"-A {rule} -j ACCEPT" in lines]
    missing = [rule for rule in wanted if f"-P {rule.split()[0]} DROP" in lines and rule not in present]
    return {"present": present, "missing": missing}


def read_text(path: str) -> str:
    """Contents of a file, or nothing where it does not exist."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def nameservers() -> list[str]:
    """List the resolvers of this machine; behind systemd-resolved's stub those that the stub asks."""
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        servers = usable_nameservers(read_text(path))
        if servers:
            return servers
    return []


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command; one that does not exist has failed like any other."""
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def succeeds(*command: str) -> bool:
    """Tell whether a command exists and exits 0."""
    return run(*command).returncode == 0


def os_families() -> list[str]:
    """ID and ID_LIKE of this system."""
    fields = dict(line.partition("=")[::2] for line in read_text("/etc/os-release").splitlines())
    return f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace('"', "").split()


def memory_mb() -> int:
    """Memory that the kernel sees, in MB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000


def disk_mb(root: Path, enough_mb: int) -> int:
    """Free disk under root in MB; where that is short, what the lab already takes there counts as well."""
    existing = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(existing).free // 1_000_000
    if free < enough_mb and root.exists():
        listing = run("du", "-smx", str(root)).stdout
        free += int(listing.split()[0]) if listing else 0
    return free


def missing_packages(wanted: list[str]) -> list[str]:
    """List those of the packages that are not fully installed."""
    listing = run("dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\\n", *wanted).stdout
    installed = {line.split()[0] for line in listing.splitlines() if line.endswith(" installed")}
    return [package for package in wanted if package not in installed]


def sysctl_differs(wanted: dict[str, str]) -> list[str]:
    """List those of the kernel parameters that have another value."""
    return [key for key, value in wanted.items() if read_text(f"/proc/sys/{key.replace('.', '/')}").strip() != value]


def is_machine_id(text: str) -> bool:
    """Tell whether systemd takes this for a machine's id; a container or an image may have none, or "uninitialized"."""
    return re.fullmatch(r"[0-9a-f]{32}", text.strip()) is not None


def recipe_digest(recipe: Path, extra: list[str], certificates: Path = CERTIFICATES) -> str:
    """Hash of what decides how the base tree comes out, host certificates included, wherever the recipe lies."""
    digest = hashlib.sha256()
    for path in (*sorted(certificates.glob("*.crt")), *sorted(recipe.rglob("*"))):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    digest.update("\n".join(extra).encode())
    return digest.hexdigest()[:12]


def listens(address: str, port: int) -> bool:
    """Tell whether something answers on a TCP port."""
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def probe(params: dict[str, Any]) -> dict[str, Any]:
    """Collect the whole report."""
    interface = ipaddress.IPv4Interface(params["address"])
    routes = read_text("/proc/net/route")
    filesystems = read_text("/proc/filesystems").split()
    bridge_up = (params["bridge"], interface.network) in parse_routes(routes)
    nsenter = ("unshare", "--mount", "--propagation", "private")
    return {
        "root_user": os.geteuid() == 0,
        "os_families": os_families(),
        "namespaces": succeeds("unshare", "--user", "--map-root-user", "--mount", "--pid", "--net", "--fork", "true"),
        "cgroup2": succeeds(*nsenter, "mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"),
        "fuse": Path("/dev/fuse").is_char_device(),
        "overlay": "overlay" in filesystems or succeeds("modprobe", "-n", "-q", "overlay"),
        "kernel_nfs": "nfs4" in filesystems or succeeds("modprobe", "-n", "-q", "nfsv4"),
        "machine_id": is_machine_id(read_text("/etc/machine-id")),
        "memory_mb": memory_mb(),
        "disk_mb": disk_mb(Path(params["root"]), params["disk_min_mb"]),
        "range_conflicts": range_conflicts(routes, interface.network, params["bridge"]),
        "foreign_machines": foreign_machines(running_cmdlines(), params["root"], params["bridge"], params["machines"]),
        "nameservers": nameservers(),
        "missing_packages": missing_packages(params["packages"]),
        "sysctl_differs": sysctl_differs(params["sysctl"]),
        "recipe_digest": recipe_digest(Path(params["recipe"]), params["recipe_extra"]),
        "current_base": Path(params["root"], "cache/base/current").resolve().name,
        "missing_directories": [path for path in params["directories"] if not Path(path).is_dir()],
        "ssh_key": Path(params["root"], "lab/ssh/id_ed25519.pub").exists(),
        "bridge_up": bridge_up,
        "masquerade": succeeds("nft", "list", "table", "ip", params["nft_table"]),
        "firewall": firewall_openings(run("iptables", "-S").stdout, params["bridge"]),
        # Without the bridge the address is somebody else's, and a gateway may well answer for it.
        "proxy_up": bridge_up and listens(str(interface.ip), params["proxy_port"]),
    }


def main() -> None:
    """Run as an Ansible module."""
    spec: dict[str, dict[str, Any]] = {
        name: {"type": "str", "required": True} for name in ("root", "address", "bridge", "nft_table", "recipe")
    }
    spec["proxy_port"] = spec["disk_min_mb"] = {"type": "int", "required": True}
    for name in ("machines", "packages", "directories", "recipe_extra"):
        spec[name] = {"type": "list", "elements": "str", "required": True}
    spec["sysctl"] = {"type": "dict", "required": True}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    module.exit_json(changed=False, **probe(module.params))


if __name__ == "__main__":
    main()
