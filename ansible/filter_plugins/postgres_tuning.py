"""PostgreSQL settings computed from a machine's memory, cores and disks: the one home of the formula."""

from collections.abc import Callable
from typing import Any

# Private memory of a backend that has Airflow's catalogue and some plans cached.
BACKEND_MB = 5
# How many times work_mem every session may hold at once: a sort, and a hash (hash_mem_multiplier is 2).
WORK_MEM_FACTOR = 3
# Under 1 MB even a page of task instances is sorted on disk.
WORK_MEM_FLOOR_KB, WORK_MEM_CEILING_KB = 1024, 64 * 1024
WAL_BUFFERS_MB = 16

DISKS: dict[str, dict[str, str]] = {
    "ssd": {
        "random_page_cost": "1.1",
        "effective_io_concurrency": "200",
        "maintenance_io_concurrency": "200",
        "autovacuum_vacuum_cost_limit": "2000",
    },
    "hdd": {
        "random_page_cost": "4",
        "effective_io_concurrency": "2",
        "maintenance_io_concurrency": "10",
        "autovacuum_vacuum_cost_limit": "400",
    },
}


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def _memory_shares(memory_mb: int, cpus: int) -> dict[str, int]:
    """Return what is claimed whatever the number of sessions, in MB (autovacuum_max_workers: a count)."""
    return {
        "shared_buffers": _clamp(memory_mb // 4, 16, 16 * 1024),
        "maintenance_work_mem": _clamp(memory_mb // 16, 8, 2 * 1024),
        "autovacuum_work_mem": _clamp(memory_mb // 64, 4, 512),
        "autovacuum_max_workers": _clamp(cpus // 2, 3, 8),
    }


def _left_for_sessions_mb(memory_mb: int, cpus: int) -> int:
    shares = _memory_shares(memory_mb, cpus)
    kernel_and_neighbours = max(128, memory_mb // 10)
    autovacuum = shares["autovacuum_work_mem"] * shares["autovacuum_max_workers"]
    claimed = shares["shared_buffers"] + shares["maintenance_work_mem"] + autovacuum + WAL_BUFFERS_MB
    return memory_mb - kernel_and_neighbours - claimed


def postgres_connection_limit(memory_mb: int, cpus: int) -> int:
    """Return the most sessions that `memory_mb` carries when each may have the least useful work_mem."""
    session_kb = BACKEND_MB * 1024 + WORK_MEM_FACTOR * WORK_MEM_FLOOR_KB
    # A parallel worker sorts in a work_mem of its own.
    return max(0, _left_for_sessions_mb(memory_mb, cpus) * 1024 // session_kb - cpus)


def postgres_tuning(memory_mb: int, cpus: int, disk_kind: str, max_connections: int) -> dict[str, str]:
    """Return postgresql.conf settings that never commit more than `memory_mb`, by name.

    Raises ValueError when that many connections do not fit, or the kind of disk is unknown.
    """
    if disk_kind not in DISKS:
        raise ValueError(f"disk kind {disk_kind!r} is none of {', '.join(sorted(DISKS))}")
    limit = postgres_connection_limit(memory_mb, cpus)
    if max_connections > limit:
        raise ValueError(f"{memory_mb} MB of memory carry {limit} connections, not {max_connections}")
    shares = _memory_shares(memory_mb, cpus)
    sessions = max_connections + cpus
    spare_kb = (_left_for_sessions_mb(memory_mb, cpus) - sessions * BACKEND_MB) * 1024
    work_mem_kb = _clamp(spare_kb // (sessions * WORK_MEM_FACTOR), WORK_MEM_FLOOR_KB, WORK_MEM_CEILING_KB)
    max_wal_mb = _clamp(memory_mb // 4, 1024, 16 * 1024)
    return {
        "max_connections": str(max_connections),
        "shared_buffers": f"{shares['shared_buffers']}MB",
        "effective_cache_size": f"{memory_mb * 3 // 4}MB",
        "work_mem": f"{work_mem_kb}kB",
        "maintenance_work_mem": f"{shares['maintenance_work_mem']}MB",
        "autovacuum_work_mem": f"{shares['autovacuum_work_mem']}MB",
        "autovacuum_max_workers": str(shares["autovacuum_max_workers"]),
        "wal_buffers": f"{WAL_BUFFERS_MB}MB",
        "max_wal_size": f"{max_wal_mb}MB",
        "min_wal_size": f"{max_wal_mb // 4}MB",
        "max_worker_processes": str(max(8, cpus + 4)),
        "max_parallel_workers": str(cpus),
        "max_parallel_workers_per_gather": str(_clamp(cpus // 4, 1, 4)),
        "max_parallel_maintenance_workers": str(_clamp(cpus // 2, 1, 4)),
        **DISKS[disk_kind],
    }


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"postgres_tuning": postgres_tuning, "postgres_connection_limit": postgres_connection_limit}
