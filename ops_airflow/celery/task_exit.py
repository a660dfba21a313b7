"""A worker's slot is free when its task's process has ended. Imported by Celery's workers when they start.

Airflow 3.3's supervisor of a task waits for its process's sockets, and looks between two waits whether the process
is gone. A process closes its sockets a moment before it has ended: the supervisor that looks in that moment has
nothing left to wait for and sleeps `[workers] min_heartbeat_interval` (5 s), the slot taken. Here it looks on.
"""

from __future__ import annotations

import functools
from typing import Any

from airflow.sdk.execution_time.supervisor import WatchedSubprocess

LOOK_EVERY_SECONDS = 0.02

_service = WatchedSubprocess._service_subprocess  # noqa: SLF001


@functools.wraps(_service)
def _service_until_it_ends(self: Any, max_wait_time: float, *words: Any, **options: Any) -> Any:
    if not self._open_sockets:
        max_wait_time = min(max_wait_time, LOOK_EVERY_SECONDS)
    return _service(self, max_wait_time, *words, **options)


WatchedSubprocess._service_subprocess = _service_until_it_ends  # noqa: SLF001
