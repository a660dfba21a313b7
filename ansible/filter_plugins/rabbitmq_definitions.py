"""Definitions of a RabbitMQ broker: the hashes that stand in for passwords, and how far a broker is from them."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

SALT_BYTES = 4
# What names an object of each kind; see https://www.rabbitmq.com/docs/definitions.
KEYS = {"users": ("name",), "vhosts": ("name",), "permissions": ("user", "vhost")}


def rabbitmq_password_hash(password: str, user: str) -> str:
    """Return `password` as rabbit_password_hashing_sha256 stores it: base64(salt + sha256(salt + password)).

    The salt follows from user and password, so one password always gives one hash and a converge can compare it with
    what the broker holds; it differs from user to user and from password to password.
    """
    secret = password.encode()
    salt = hashlib.sha256(b"airfleet/rabbitmq/" + user.encode() + b"\0" + secret).digest()[:SALT_BYTES]
    return base64.b64encode(salt + hashlib.sha256(salt + secret).digest()).decode()


def rabbitmq_drift(wanted: Mapping[str, Any], held: Mapping[str, Any]) -> bool:
    """Return whether the broker, whose `/api/definitions` said `held`, lacks anything of the `wanted` definitions."""
    for kind, key in KEYS.items():
        by_key = {tuple(item[part] for part in key): item for item in held.get(kind, [])}
        for item in wanted[kind]:
            if not _covers(by_key.get(tuple(item[part] for part in key)), item):
                return True
    return False


def rabbitmq_strangers(wanted: Mapping[str, Any], held: Mapping[str, Any]) -> list[str]:
    """Return the names of the users that the broker holds and nobody wants."""
    names = {user["name"] for user in wanted["users"]}
    return sorted(user["name"] for user in held.get("users", []) if user["name"] not in names)


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
            "rabbitmq_strangers": rabbitmq_strangers,
        }
