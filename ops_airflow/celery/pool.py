"""Celery's pool of processes, which knows after a lost connection as well which of them are busy.

Celery 5.6 forgets it (`AsynPool.flush` clears `_busy_workers`): new tasks were written to processes that run old ones,
and waited there, hours perhaps, while other slots were free. Mended upstream by celery PR 10346, in 5.7.
"""

from __future__ import annotations

from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool as _TaskPool


class Pool(AsynPool):  # type: ignore[misc]
    """Processes and what they do."""

    def flush(self) -> None:
        """Drop what no process has begun; what one runs keeps it busy."""
        super().flush()
        for job in tuple(self._cache.values()):
            process = job._write_to  # noqa: SLF001
            if job._accepted and not job.ready() and process is not None:  # noqa: SLF001
                self._busy_workers.add(process.inqW_fd)


class TaskPool(_TaskPool):  # type: ignore[misc]
    """Named by Celery's setting worker_pool."""

    Pool = Pool
