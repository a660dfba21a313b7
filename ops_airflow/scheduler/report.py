"""What a keeper tells about itself: a JSON object for `ops`, metrics for Prometheus."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from ops_airflow.scheduler.protocol import Protocol, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from ops_airflow.scheduler.endpoint import Answer

_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Report:
    """Kept up to date by the keeper; read over HTTP."""

    def __init__(self, protocol: Protocol, clock: Callable[[], float]) -> None:
        """`clock` is the protocol's."""
        self._protocol, self._clock = protocol, clock
        self.scheduler_pid = 0
        self.preloaded = False
        self.why = ""
        self._fencing_since: float | None = None
        self._registry = CollectorRegistry()
        state = Gauge("airflow_keeper_state", "1 for the state it is in", ["state"], registry=self._registry)
        for each in State:
            state.labels(each.value).set_function(lambda each=each: float(protocol.state is each))  # type: ignore[misc]
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "epoch": ("Newest epoch that it knows of", lambda: protocol.epoch),
            "ready": ("1 if it would take the lease now", lambda: float(self.ready)),
            "renewed_seconds_ago": ("Time since its last renewal was sent; 0 as standby", self._renewed_ago),
        }
        for name, (text, value) in gauges.items():
            Gauge(f"airflow_keeper_{name}", text, registry=self._registry).set_function(value)
        self._failovers = Counter("airflow_keeper_failovers", "Leases that it took", registry=self._registry)
        self._duration = Gauge(
            "airflow_keeper_last_failover_seconds", "Lease taken to scheduler started", registry=self._registry
        )

    @property
    def ready(self) -> bool:
        """Whether it can take over without delay."""
        return self.preloaded and self._protocol.ready

    def changed(self, state: State, why: str) -> None:
        """Note a transition."""
        self.why = why
        if state is State.FENCING:
            self._fencing_since = self._clock()
        elif state is State.ACTIVE and self._fencing_since is not None:
            self._failovers.inc()
            self._duration.set(self._clock() - self._fencing_since)

    def health(self) -> dict[str, Any]:
        """Return the JSON object."""
        protocol = self._protocol
        return {
            "state": protocol.state.value,
            "epoch": protocol.epoch,
            "holder": protocol.holder,
            "ready": self.ready,
            "why": self.why,
            "failure": protocol.failure,
            "renewed_seconds_ago": round(self._renewed_ago(), 3),
            "scheduler_pid": self.scheduler_pid or None,
            "preloaded": self.preloaded,
        }

    def answer(self, path: str) -> Answer:
        """Answer GET /health (200 if active or ready, else 503) and GET /metrics."""
        if path == "/metrics":
            return 200, _TEXT, generate_latest(self._registry)
        if path == "/health":
            well = self.ready or self._protocol.state is State.ACTIVE
            return 200 if well else 503, "application/json", json.dumps(self.health()).encode() + b"\n"
        return 404, "text/plain", b"GET /health or /metrics\n"

    def _renewed_ago(self) -> float:
        return 0.0 if self._protocol.state is State.STANDBY else self._clock() - self._protocol.renewed
