"""Hashes are those that RabbitMQ checks passwords against, and a broker that differs is noticed."""

import base64
import copy
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

PLUGIN = Path(__file__).parents[3] / "ansible/filter_plugins/rabbitmq_definitions.py"
spec = importlib.util.spec_from_file_location(PLUGIN.stem, PLUGIN)
assert spec
assert spec.loader
plugin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plugin)

WANTED: dict[str, Any] = {
    "users": [{"name": "admin", "password_hash": "A", "tags": ["administrator"]}],
    "vhosts": [{"name": "airflow", "metadata": {"default_queue_type": "quorum", "tags": []}}],
    "permissions": [{"user": "admin", "vhost": "airflow", "configure": ".*", "write": ".*", "read": ".*"}],
}
# As a broker tells it: more of everything, in another order.
HELD: dict[str, Any] = {
    "rabbitmq_version": "4.0.5",
    "users": [{"name": "admin", "password_hash": "A", "tags": ["administrator"], "limits": {}}],
    "vhosts": [
        {"name": "/", "metadata": {}},
        {"name": "airflow", "limits": [], "metadata": {"tags": [], "default_queue_type": "quorum", "description": ""}},
    ],
    "permissions": [{"read": ".*", "user": "admin", "vhost": "airflow", "configure": ".*", "write": ".*"}],
    "queues": [{"name": "cpu"}],
}


@given(st.text(min_size=1), st.text())
def test_hash_is_one_that_rabbitmq_accepts(password: str, user: str) -> None:
    # rabbit_password:hash/3: the salt, then the digest of salt and password
    stored = base64.b64decode(plugin.rabbitmq_password_hash(password, user))
    salt, digest = stored[:4], stored[4:]
    assert hashlib.sha256(salt + password.encode()).digest() == digest


def test_hash_is_stable_and_differs_by_user_and_by_password() -> None:
    hashes = [plugin.rabbitmq_password_hash(*words) for words in [("p1", "a"), ("p1", "a"), ("p1", "b"), ("p2", "a")]]
    assert hashes[0] == hashes[1]
    assert len({base64.b64decode(value)[:4] for value in hashes}) == 3


def test_drift_is_none_when_the_broker_holds_all_and_more() -> None:
    assert plugin.rabbitmq_drift(WANTED, HELD) is False


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("users", {"password_hash": "B"}),
        ("users", {"tags": []}),
        ("users", {"name": "root"}),
        ("vhosts", {"metadata": {"default_queue_type": "classic", "tags": []}}),
        ("permissions", {"write": "^$"}),
        ("permissions", {"vhost": "/"}),
    ],
)
def test_drift_is_seen_in_every_kind(kind: str, change: dict[str, Any]) -> None:
    held = copy.deepcopy(HELD)
    held[kind][-1] |= change
    assert plugin.rabbitmq_drift(WANTED, held) is True


def test_drift_of_a_broker_that_did_not_answer() -> None:
    assert plugin.rabbitmq_drift(WANTED, {}) is True


def test_strangers_are_the_users_that_nobody_wants() -> None:
    held = {"users": [{"name": "guest"}, {"name": "admin"}, {"name": "eve"}]}
    assert plugin.rabbitmq_strangers(WANTED, held) == ["eve", "guest"]
    assert plugin.rabbitmq_strangers(WANTED, {}) == []
