import asyncio
from typing import Any

import pytest

from ops_airflow.api.warm_up import WarmUp

LIFESPAN = {"type": "lifespan", "asgi": {"version": "3.0"}}


class Application:
    """Records what reaches it; the first request fails if told so."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.seen: list[str] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ARG002
        self.seen.append(scope.get("path", scope["type"]))
        if scope["type"] == "http":
            if self.broken:
                raise RuntimeError("cold")
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})


def serve(application: Application, scope: dict[str, Any]) -> None:
    async def nothing(*_: Any) -> Any:
        return {}

    asyncio.run(WarmUp(application, paths=("/execution/health", "/api/v2/version"))(scope, nothing, nothing))


def test_start_is_reported_only_after_the_slow_paths_were_asked() -> None:
    application = Application()
    serve(application, LIFESPAN)
    assert application.seen == ["/execution/health", "/api/v2/version", "lifespan"]


def test_requests_are_passed_on_alone() -> None:
    application = Application()
    serve(application, {"type": "http", "path": "/execution/task-instances"})
    assert application.seen == ["/execution/task-instances"]


def test_server_starts_even_if_warming_up_fails(caplog: pytest.LogCaptureFixture) -> None:
    application = Application(broken=True)
    serve(application, LIFESPAN)
    assert application.seen[-1] == "lifespan"
    assert "could not warm up /execution/health" in caplog.text
