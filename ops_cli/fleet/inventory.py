"""The Ansible inventory: the only source of topology, read through `ansible-inventory` alone."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ops_cli.console import hints
from ops_cli.console.errors import OpsError, UsageError
from ops_cli.fleet import remembered

# The order in which a request travels through the fleet; tables and JSON follow it.
TIERS = ("lb", "web", "scheduler", "worker", "broker", "database", "share")

# A vault whose password a script asks for may take its time.
_LIST_SECONDS = 120

# Multiplexing and keepalive tune the ssh binary alone. StrictHostKeyChecking is here because ops is always strict.
_IGNORED_SSH_OPTIONS = frozenset(
    {
        "batchmode",
        "connecttimeout",
        "controlmaster",
        "controlpath",
        "controlpersist",
        "identitiesonly",
        "loglevel",
        "preferredauthentications",
        "serveralivecountmax",
        "serveraliveinterval",
        "stricthostkeychecking",
    }
)


@dataclass(frozen=True)
class Host:
    """One machine of the fleet and how to log in to it."""

    name: str
    address: str
    tier: str
    user: str | None = None
    port: int | None = None
    identity_file: str | None = None
    known_hosts: str | None = None
    jump: str | None = None
    ssh_config: str | None = None
    env: str = "lab"


@dataclass(frozen=True)
class Inventory:
    """An environment: its hosts, tier by tier, and the directory it was read from."""

    env: str
    hosts: tuple[Host, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    signing_key: str = ""
    """File on the control node; a tilde stands for the home of who types."""

    def tier(self, tier: str) -> list[Host]:
        """Return the hosts of one tier, in inventory order."""
        return [host for host in self.hosts if host.tier == tier]

    @property
    def database(self) -> Host:
        """The host of the metadata database. Raises UsageError if the inventory has none."""
        if hosts := self.tier("database"):
            return hosts[0]
        raise UsageError(f"inventories/{self.env}: no host in group database; put one in it")


def find_home(start: Path | None = None) -> Path:
    """Return the checkout: OPS_HOME, or the nearest directory upward from `start` that holds inventories/.

    Raises UsageError if there is none.
    """
    if home := os.environ.get("OPS_HOME"):
        if (Path(home) / "inventories").is_dir():
            return Path(home).resolve()
        raise UsageError(f"OPS_HOME is {home}, which has no inventories/: set it to the checkout of airfleet")
    start = (start or Path.cwd()).resolve()
    for directory in (start, *start.parents):
        if (directory / "inventories").is_dir() and (directory / "ansible.cfg").is_file():
            return directory
    raise UsageError(f"no inventories/ in {start} or above it: cd to the checkout of airfleet, or set OPS_HOME to it")


def environments(home: Path) -> list[str]:
    """Return the names of the environments under inventories/."""
    return sorted(path.parent.name for path in (home / "inventories").glob("*/hosts.yml"))


def load(env: str, home: Path) -> Inventory:
    """Read one environment.

    Raises UsageError if it does not exist, and OpsError if Ansible cannot read it.
    """
    available = environments(home)
    if env not in available:
        raise UsageError(f"no environment {env!r}; there are: {', '.join(available) or 'none'}")
    directory = home / "inventories" / env
    key = remembered.key(directory, home)
    if key and (kept := remembered.recall(directory, key)):
        with suppress(TypeError, KeyError):
            hosts = tuple(Host(**host) for host in kept["hosts"])
            groups = {name: tuple(members) for name, members in kept["groups"].items()}
            return Inventory(env, hosts, groups, kept["signing_key"])
    found = parse(env, _list(env, home))
    if key:
        answer = {"groups": dict(found.groups), "signing_key": found.signing_key}
        remembered.keep(directory, key, {"hosts": [asdict(host) for host in found.hosts], **answer})
    return found


def parse(env: str, listing: Mapping[str, Any]) -> Inventory:
    """Turn the output of `ansible-inventory --list` into an Inventory.

    Raises OpsError if a host cannot be addressed or belongs to no tier.
    """
    variables = listing.get("_meta", {}).get("hostvars", {})
    groups = {name: tuple(dict.fromkeys(_members(listing, name))) for name in listing if name != "_meta"}
    names = groups.get("fleet", ())
    if not names:
        raise OpsError(f"inventories/{env}/hosts.yml: the group fleet has no hosts; put the machines in it")
    hosts = [_host(env, name, _tier(env, name, groups), variables.get(name, {})) for name in names]
    key = _literal(env, names[0], _SIGNING_KEY, variables.get(names[0], {}).get(_SIGNING_KEY))
    by_tier = tuple(sorted(hosts, key=lambda host: TIERS.index(host.tier)))
    return Inventory(env, by_tier, groups, key or f"~/.config/airfleet/{env}/release-signing")


def _list(env: str, home: Path) -> dict[str, Any]:
    # The binary beside this interpreter: another Ansible on PATH may not have what the inventory needs.
    binary = Path(sys.executable).with_name("ansible-inventory")
    command: list[str | Path] = [binary, "-i", home / "inventories" / env, "--list"]
    settings = os.environ | {
        "ANSIBLE_CONFIG": str(home / "ansible.cfg"),
        # Otherwise a file with a mistake is a warning and a smaller fleet.
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_VERBOSITY": "0",
    }
    try:
        done = subprocess.run(
            command, cwd=home, env=settings, capture_output=True, text=True, check=False, timeout=_LIST_SECONDS
        )
    except OSError as error:
        raise OpsError(f"{binary} cannot be run ({error.strerror}); type: bin/bootstrap") from error
    except subprocess.TimeoutExpired:
        look = f"type: {hints.listing(env)}"
        raise OpsError(f"cannot read inventories/{env}: no answer within {_LIST_SECONDS} s; {look}") from None
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "ERROR" in line), done.stderr.strip())
        look = f"type: {hints.listing(env)}"
        if "vault" in reason:
            look = "set ANSIBLE_VAULT_PASSWORD_FILE to the file that holds the vault's password"
        raise OpsError(f"cannot read inventories/{env}: {reason.removeprefix('[ERROR]: ')}; {look}")
    listing: dict[str, Any] = json.loads(done.stdout)
    return listing


def _members(listing: Mapping[str, Any], group: str) -> Iterator[str]:
    yield from listing.get(group, {}).get("hosts", [])
    for child in listing.get(group, {}).get("children", []):
        yield from _members(listing, child)


def _tier(env: str, name: str, groups: Mapping[str, tuple[str, ...]]) -> str:
    for tier in TIERS:
        if name in groups.get(tier, ()):
            return tier
    raise OpsError(f"inventories/{env}/hosts.yml: {name} is in none of the groups {', '.join(TIERS)}")


def _host(env: str, name: str, tier: str, variables: Mapping[str, Any]) -> Host:
    login = {key: _literal(env, name, key, variables.get(key)) for key in _LOGIN_VARIABLES}
    arguments = f"{login['ansible_ssh_common_args'] or ''} {login['ansible_ssh_extra_args'] or ''}"
    options = _ssh_options(env, name, arguments)
    return Host(
        name=name,
        tier=tier,
        address=login["ansible_host"] or name,
        user=login["ansible_user"],
        port=int(login["ansible_port"]) if login["ansible_port"] else None,
        identity_file=login["ansible_ssh_private_key_file"] or login["ansible_private_key_file"],
        known_hosts=options.get("userknownhostsfile"),
        jump=options.get("proxyjump"),
        ssh_config=options.get("configfile"),
        env=env,
    )


# Role airflow_dags has the same default.
_SIGNING_KEY = "airflow_dags_signing_key"
_LOGIN_VARIABLES = (
    "ansible_host",
    "ansible_user",
    "ansible_port",
    "ansible_ssh_private_key_file",
    "ansible_private_key_file",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
)


def _literal(env: str, host: str, key: str, value: object) -> str | None:
    if value is None:
        return None
    # `ansible-inventory` prints templates as they stand; guessing what one means could reach the wrong machine.
    if "{{" in str(value):
        raise OpsError(f"inventories/{env}: {key} of {host} is a template; ops needs it written out")
    return str(value)


def _ssh_options(env: str, host: str, arguments: str) -> dict[str, str]:
    options: dict[str, str] = {}
    words = iter(shlex.split(arguments))
    for word in words:
        flag, value = word[:2], word[2:] or next(words, "")
        if flag == "-o":
            key, _, text = value.replace(" ", "=", 1).partition("=")
            options[key.lower()] = text
        elif flag in {"-F", "-J"}:
            options["configfile" if flag == "-F" else "proxyjump"] = value
        else:
            options[word] = value
    unknown = set(options) - _IGNORED_SSH_OPTIONS - {"userknownhostsfile", "proxyjump", "configfile"}
    if unknown:
        raise OpsError(
            f"inventories/{env}: ops does not understand {', '.join(sorted(unknown))} in the ssh arguments of {host}; "
            "put it in a file and name that with -F"
        )
    return options
