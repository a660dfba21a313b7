"""Definitions of a RabbitMQ broker: the hashes that stand in for passwords, and how far a broker is from them."""

import base64
import hashlib
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

SALT_BYTES = 4
# What names an object of each kind; see https://www.rabbitmq.com/docs/definitions.
KEYS = {
    "users": ("name",),
    "vhosts": ("name",),
    "permissions": ("user", "vhost"),
    "queues": ("name", "vhost"),
    "policies": ("name", "vhost"),
}
# What earlier versions of the fleet left in a broker: the one login of every program, and what Celery declared with it.
FORMER_USER = "airflow"
FORMER_NAMES = re.compile(r"celery_delayed_.*|celeryev|celery\.pidbox|reply\.celery\.pidbox")


def rabbitmq_password_hash(password: str, user: str) -> str:
    """Return `password` as rabbit_password_hashing_sha256 stores it: base64(salt + sha256(salt + password)).

    The salt follows from user and password, so one password always gives one hash and a converge can compare it with
    what the broker holds; it differs from user to user and from password to password.
    """
    secret = password.encode()
    salt = hashlib.sha256(b"airfleet/rabbitmq/" + user.encode() + b"\0" + secret).digest()[:SALT_BYTES]
    return base64.b64encode(salt + hashlib.sha256(salt + secret).digest()).decode()


def rabbitmq_workers(passwords: Mapping[str, str], vhost: str) -> dict[str, list[dict[str, Any]]]:
    """Return what each pool of `passwords` has in `vhost`: a queue, and a login that may consume it and no more."""
    return {
        "users": [
            {
                "name": f"worker_{pool}",
                "password_hash": rabbitmq_password_hash(password, f"worker_{pool}"),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [],
            }
            for pool, password in passwords.items()
        ],
        "permissions": [
            {"user": f"worker_{pool}", "vhost": vhost, "configure": "^$", "write": "^$", "read": f"^{re.escape(pool)}$"}
            for pool in passwords
        ],
        "queues": [
            {
                "name": pool,
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": {"x-queue-type": "quorum"},
            }
            for pool in passwords
        ],
    }


def rabbitmq_drift(wanted: Mapping[str, Any], held: Mapping[str, Any]) -> bool:
    """Return whether the broker, whose `/api/definitions` said `held`, lacks anything of the `wanted` definitions."""
    for kind, key in KEYS.items():
        by_key = {tuple(item[part] for part in key): item for item in held.get(kind, [])}
        for item in wanted[kind]:
            if not _covers(by_key.get(tuple(item[part] for part in key)), item):
                return True
    return False


def rabbitmq_strangers(wanted: Mapping[str, Any], held: Mapping[str, Any]) -> list[str]:
    """Return the names of the users that the broker holds and nobody wants, but for the former one: see below."""
    names = {user["name"] for user in wanted["users"]} | {FORMER_USER}
    return sorted(user["name"] for user in held.get("users", []) if user["name"] not in names)


def rabbitmq_leftovers(held: Mapping[str, Any], vhost: str) -> list[str]:
    """Return what earlier versions left in the broker, as paths of its management API; [] where nothing is left.

    To be deleted once nobody is connected as the former user: the broker ends the connections of a user that goes, and
    a fleet is converged broker first, when its schedulers and workers have the old login still.
    """
    place = urllib.parse.quote(vhost, safe="")
    found = [
        f"{kind}/{place}/{urllib.parse.quote(item['name'], safe='')}"
        for kind in ("queues", "exchanges")
        for item in held.get(kind, [])
        if item["vhost"] == vhost and FORMER_NAMES.fullmatch(item["name"])
    ]
    return sorted(found) + [f"users/{FORMER_USER}" for user in held.get("users", []) if user["name"] == FORMER_USER]


def _covers(held: Any, wanted: Any) -> bool:
    """Whether everything that `wanted` says holds; a broker tells more of an object than it was told."""
    if isinstance(wanted, Mapping):
        return isinstance(held, Mapping) and all(_covers(held.get(name), value) for name, value in wanted.items())
    return bool(held == wanted)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "rabbitmq_password_hash": rabbitmq_password_hash,
            "rabbitmq_drift": rabbitmq_drift,
            "rabbitmq_workers": rabbitmq_workers,
            "rabbitmq_strangers": rabbitmq_strangers,
            "rabbitmq_leftovers": rabbitmq_leftovers,
        }
