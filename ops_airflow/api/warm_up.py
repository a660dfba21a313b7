"""Makes an api-server do its slow first work before it listens, not during its first task's request.

Airflow 3.3 builds the versioned routes of the execution API at the first request to it: 2.6 s of CPU in which the
process answers nobody, health checks included. After a rolling restart the first three tasks of a fleet would so take
its three api-servers out of the balancer. This middleware asks for itself what costs so much, in each process, before
the server reports that it has started.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Message, Receive, Send], Awaitable[None]]

_log = logging.getLogger(__name__)
PATHS = ("/execution/health", "/api/v2/version")


class WarmUp:
    """ASGI middleware: a GET of each path before the application's own start, then nothing but passing on."""

    def __init__(self, app: App, paths: tuple[str, ...] = PATHS) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            for path in self._paths:
                await self._get(scope, path)
        await self._app(scope, receive, send)

    async def _get(self, lifespan: Message, path: str) -> None:
        scope = {
            "type": "http",
            "asgi": lifespan["asgi"],
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 0),
            "state": {},
        }
        try:
            await self._app(scope, _no_body, _discard)
        except Exception:  # noqa: BLE001  (a cold server is slow; one that does not start is down)
            _log.exception("could not warm up %s", path)


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _discard(message: Message) -> None:
    if message["type"] == "http.response.start":
        _log.info("warmed up, status %s", message["status"])
