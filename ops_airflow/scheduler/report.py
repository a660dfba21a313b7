"""What a keeper tells about itself: for `ops` and for Prometheus, by way of the endpoint's process (listener.py)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ops_airflow.scheduler.protocol import Protocol, State

if TYPE_CHECKING:
    from collections.abc import Callable


class Report:
    """Kept up to date by the keeper."""

    def __init__(self, protocol: Protocol, clock: Callable[[], float]) -> None:
        """`clock` is the protocol's, and the monotonic one of this machine."""
        self._protocol, self._clock = protocol, clock
        self.scheduler_pid = 0
        self.preloaded = False
        self.why = ""
        self._fencing_since: float | None = None
        self._failovers = 0
        self._last_failover_seconds = 0.0

    def changed(self, state: State, why: str) -> None:
        """Note a transition."""
        self.why = why
        if state is State.FENCING:
            self._fencing_since = self._clock()
        elif state is State.ACTIVE and self._fencing_since is not None:
            self._failovers += 1
            self._last_failover_seconds = self._clock() - self._fencing_since

    def health(self) -> dict[str, Any]:
        """Return the object that GET /health tells, but for its `renewed_seconds_ago`."""
        protocol = self._protocol
        return {
            "state": protocol.state.value,
            "epoch": protocol.epoch,
            "holder": protocol.holder,
            "ready": protocol.ready,
            "why": self.why,
            "failure": protocol.failure,
            "scheduler_pid": self.scheduler_pid or None,
            "preloaded": self.preloaded,
        }

    def snapshot(self) -> bytes:
        """Return all that the endpoint's process needs in order to answer by itself until the next one."""
        figures = {"failovers_total": float(self._failovers), "last_failover_seconds": self._last_failover_seconds}
        renewed = None if self._protocol.state is State.STANDBY else self._protocol.renewed
        said = {
            "health": self.health(),
            "states": [state.value for state in State],
            "figures": figures,
            "renewed": renewed,
            "at": self._clock(),
        }
        return json.dumps(said).encode()
