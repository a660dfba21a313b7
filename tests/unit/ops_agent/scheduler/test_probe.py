import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ops_agent.scheduler import probe
from ops_release.run import ProbeError


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Callable[[int, bytes], Path]]:
    """Give a call that serves one answer on every path, and returns the settings of a keeper that listens there."""
    servers = []

    def serve(status: int, body: bytes) -> Path:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/health" else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        path = tmp_path / "keeper.json"
        path.write_text(json.dumps({"listen_address": "127.0.0.1", "listen_port": server.server_port}))
        return path

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [200, 503])
def test_keeper_is_told_as_it_tells_itself_ready_or_not(answering: Callable[[int, bytes], Path], status: int) -> None:
    health = {"state": "standby", "ready": status == 200}
    assert probe.keeper(answering(status, json.dumps(health).encode())) == health


def test_keeper_that_answers_nonsense_is_an_error(answering: Callable[[int, bytes], Path]) -> None:
    with pytest.raises(ProbeError, match="the keeper does not answer at http://127"):
        probe.keeper(answering(200, b"<html>"))


def test_keeper_that_does_not_listen_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "keeper.json"
    path.write_text('{"listen_address": "127.0.0.1", "listen_port": 1}')
    with pytest.raises(ProbeError, match=r"does not answer at http://127\.0\.0\.1:1/health: .*refused"):
        probe.keeper(path)


def test_host_without_a_keeper_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"none\.json: FileNotFoundError"):
        probe.keeper(tmp_path / "none.json")
