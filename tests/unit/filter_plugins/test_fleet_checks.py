"""Hosts that share an address or stand in several groups are named; one without is another check's business."""

import importlib.util
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[3] / "ansible/filter_plugins/fleet_checks.py"
spec = importlib.util.spec_from_file_location(PLUGIN.stem, PLUGIN)
assert spec
assert spec.loader
plugin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plugin)


@pytest.mark.parametrize(
    ("addresses", "shared"),
    [
        ({}, []),
        ({"web1": "10.0.0.1", "web2": "10.0.0.2"}, []),
        ({"web1": "", "web2": ""}, []),
        ({"web1": "10.0.0.1", "web2": "10.0.0.2", "pg1": "10.0.0.1"}, ["10.0.0.1 (web1, pg1)"]),
        (
            {"a": "10.0.0.1", "b": "10.0.0.1", "c": "10.0.0.1", "d": "10.0.0.2", "e": "10.0.0.2"},
            ["10.0.0.1 (a, b, c)", "10.0.0.2 (d, e)"],
        ),
    ],
)
def test_shared_addresses_name_every_host(addresses: dict[str, str], shared: list[str]) -> None:
    assert plugin.shared_addresses(addresses) == shared


@pytest.mark.parametrize(
    ("groups", "several"),
    [
        ({}, []),
        ({"web": ["web1", "web2"], "scheduler": ["sched1"]}, []),
        ({"worker_cpu": ["w1", "w2"], "worker_io": ["w2"]}, ["w2 (worker_cpu, worker_io)"]),
        ({"lb": ["a"], "web": ["a", "b"], "share": ["b", "a"]}, ["a (lb, web, share)", "b (web, share)"]),
    ],
)
def test_hosts_in_several_groups_are_named_with_them(groups: dict[str, list[str]], several: list[str]) -> None:
    assert plugin.hosts_in_several(groups) == several
