import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops_agent.dags.gate import policy
from ops_agent.dags.gate.findings import Severity


def test_missing_file_is_the_default(tmp_path: Path) -> None:
    assert policy.load(tmp_path / policy.FILE) == policy.Policy()


def test_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / policy.FILE
    file.write_text("rules:\n  tags: {at_least: 2, severity: warning}\n  owner:\nqueues: [io]\ndefault_queue: io\n")
    chosen = policy.load(file)
    assert (chosen.severities["tags"], chosen.severities["owner"]) == (Severity.WARNING, Severity.ERROR)
    assert chosen.setting("tags", "at_least", 1) == 2
    assert (chosen.queues, chosen.pools, chosen.default_queue) == (frozenset({"io"}), None, "io")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ([], "only rules"),
        ({"rule": {}}, "only rules"),
        ({"rules": {"speed": {}}}, "'speed' is no rule"),
        ({"rules": {"cycle": {"severity": "warning"}}}, "'cycle' is no rule"),
        ({"rules": {"tags": {"least": 1}}}, "tags has no 'least'"),
        ({"rules": {"tags": {"at_least": "1"}}}, "at_least is a number"),
        ({"rules": {"tags": {"at_least": True}}}, "at_least is a number"),
        ({"rules": {"owner": {"pattern": 3}}}, "pattern is a string"),
        ({"rules": {"owner": {"pattern": "("}}}, "owner: pattern"),
        ({"rules": {"tags": {"severity": "fatal"}}}, "severity is error or warning"),
        ({"rules": ["tags"]}, "rules is a mapping"),
        ({"rules": {"tags": 1}}, "its settings are a mapping"),
        ({"pools": 3}, "pools is a list of names"),
        ({"pools": {"default_pool": "many"}}, "pools is a list of names"),
        ({"queues": [3]}, "queues is a list of names"),
        ({"default_queue": 3}, "default_queue is the name"),
    ],
)
def test_mistake_is_refused_and_named(raw: Any, text: str) -> None:
    with pytest.raises(policy.PolicyError, match=r"dag-policy\.yml") as refusal:
        policy.parse(raw)
    assert text in str(refusal.value)


def test_damaged_yaml_is_refused(tmp_path: Path) -> None:
    file = tmp_path / policy.FILE
    file.write_text("rules: [")
    with pytest.raises(policy.PolicyError, match=r"dag-policy\.yml"):
        policy.load(file)


def test_pools_may_have_their_slots() -> None:
    assert policy.parse({"pools": {"default_pool": 128, "vendor": 2}}).pools == {"default_pool": 128, "vendor": 2}
    assert policy.parse({"pools": ["vendor"]}).pools == {"vendor": None}


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("gone")])
def test_policy_that_is_no_regular_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / policy.FILE)
    with pytest.raises(policy.PolicyError, match="no regular file"):
        policy.load(tmp_path / policy.FILE)
