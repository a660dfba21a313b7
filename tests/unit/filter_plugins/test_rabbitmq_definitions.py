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
    "queues": [{"name": "cpu", "vhost": "airflow", "arguments": {"x-queue-type": "quorum"}}],
    "policies": [{"name": "tasks", "vhost": "airflow", "definition": {"delivery-limit": -1}}],
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
    "queues": [{"name": "cpu", "vhost": "airflow", "durable": True, "arguments": {"x-queue-type": "quorum"}}],
    "policies": [{"name": "tasks", "vhost": "airflow", "definition": {"delivery-limit": -1}, "priority": 0}],
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
        ("queues", {"name": "io"}),
        ("policies", {"definition": {"delivery-limit": 20}}),
    ],
)
def test_drift_is_seen_in_every_kind(kind: str, change: dict[str, Any]) -> None:
    held = copy.deepcopy(HELD)
    held[kind][-1] |= change
    assert plugin.rabbitmq_drift(WANTED, held) is True


def test_drift_of_a_broker_that_did_not_answer() -> None:
    assert plugin.rabbitmq_drift(WANTED, {}) is True


def test_strangers_are_the_users_that_nobody_wants() -> None:
    held = {"users": [{"name": "guest"}, {"name": "admin"}, {"name": "airflow"}, {"name": "eve"}]}
    assert plugin.rabbitmq_strangers(WANTED, held) == ["eve", "guest"]
    assert plugin.rabbitmq_strangers(WANTED, {}) == []


def test_worker_may_consume_its_pools_queue_and_nothing_else() -> None:
    made = plugin.rabbitmq_workers({"cpu": "p1", "a.b": "p2"}, "airflow")
    rights = {item["user"]: (item["configure"], item["write"], item["read"]) for item in made["permissions"]}
    assert rights == {"worker_cpu": ("^$", "^$", "^cpu$"), "worker_a.b": ("^$", "^$", r"^a\.b$")}
    assert [queue["name"] for queue in made["queues"]] == ["cpu", "a.b"]
    assert len({user["password_hash"] for user in made["users"]}) == 2


def test_leftovers_are_what_celery_declared_and_the_login_of_all() -> None:
    held = {
        "users": [{"name": "admin"}, {"name": "airflow"}],
        "queues": [{"name": name, "vhost": "airflow"} for name in ("cpu", "celery_delayed_0", "celery_delayed_27")],
        "exchanges": [{"name": "celery.pidbox", "vhost": "airflow"}, {"name": "celery.pidbox", "vhost": "other"}],
    }
    assert plugin.rabbitmq_leftovers(held, "airflow") == [
        "exchanges/airflow/celery.pidbox",
        "queues/airflow/celery_delayed_0",
        "queues/airflow/celery_delayed_27",
        "users/airflow",
    ]
    assert plugin.rabbitmq_leftovers({}, "airflow") == []
