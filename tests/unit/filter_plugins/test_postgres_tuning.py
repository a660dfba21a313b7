"""The tuning formula: whatever the machine, what is promised fits into it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

PLUGIN = Path(__file__).parents[3] / "ansible/filter_plugins/postgres_tuning.py"
memories = st.integers(min_value=256, max_value=1024 * 1024)
cores = st.integers(min_value=1, max_value=256)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plugin = _load(PLUGIN)


def _kb(value: str) -> int:
    return int(value[:-2]) * {"kB": 1, "MB": 1024}[value[-2:]]


def _committed_kb(settings: dict[str, str]) -> int:
    """Add up what the server takes when every session and every worker takes all that it may."""
    sessions = int(settings["max_connections"]) + int(settings["max_parallel_workers"])
    shared = _kb(settings["shared_buffers"]) + _kb(settings["wal_buffers"])
    vacuum = int(settings["autovacuum_max_workers"]) * _kb(settings["autovacuum_work_mem"])
    private = sessions * (5 * 1024 + 3 * _kb(settings["work_mem"]))
    return shared + vacuum + _kb(settings["maintenance_work_mem"]) + private


@given(memory_mb=memories, cpus=cores, disk_kind=st.sampled_from(["ssd", "hdd"]), share=st.floats(0, 1))
def test_postgres_tuning_commits_no_more_than_the_memory(
    memory_mb: int, cpus: int, disk_kind: str, share: float
) -> None:
    limit = plugin.postgres_connection_limit(memory_mb, cpus)
    assume(limit >= 1)
    settings = plugin.postgres_tuning(memory_mb, cpus, disk_kind, max(1, int(limit * share)))
    assert _committed_kb(settings) <= memory_mb * 1024 * 0.91


@given(memory_mb=memories, cpus=cores)
def test_postgres_connection_limit_is_the_last_number_accepted(memory_mb: int, cpus: int) -> None:
    limit = plugin.postgres_connection_limit(memory_mb, cpus)
    if limit:
        assert _kb(plugin.postgres_tuning(memory_mb, cpus, "ssd", limit)["work_mem"]) >= 1024
    with pytest.raises(ValueError, match=f"carry {limit} connections"):
        plugin.postgres_tuning(memory_mb, cpus, "ssd", limit + 1)


@given(memory_mb=memories, cpus=cores, more=st.integers(1, 4096))
def test_postgres_connection_limit_grows_with_the_memory(memory_mb: int, cpus: int, more: int) -> None:
    limits = [plugin.postgres_connection_limit(memory, cpus) for memory in (memory_mb, memory_mb + more)]
    # Rounding each share down may cost a session or two.
    assert limits[1] >= limits[0] - 2


def test_postgres_tuning_of_the_production_machine_is_the_documented_one() -> None:
    settings = plugin.postgres_tuning(32768, 8, "ssd", 200)
    assert {
        name: settings[name] for name in ("shared_buffers", "work_mem", "maintenance_work_mem", "max_wal_size")
    } == {
        "shared_buffers": "8192MB",
        "work_mem": "26499kB",
        "maintenance_work_mem": "2048MB",
        "max_wal_size": "8192MB",
    }


def test_postgres_tuning_prices_random_reads_by_disk() -> None:
    ssd, hdd = (plugin.postgres_tuning(8192, 4, kind, 100) for kind in ("ssd", "hdd"))
    assert float(ssd["random_page_cost"]) < float(hdd["random_page_cost"])
    assert int(ssd["effective_io_concurrency"]) > int(hdd["effective_io_concurrency"])


def test_postgres_tuning_refuses_an_unknown_disk() -> None:
    with pytest.raises(ValueError, match="'nvme' is none of hdd, ssd"):
        plugin.postgres_tuning(8192, 4, "nvme", 100)
