"""A repository's login: known to git, and to nobody who reads messages or the list of processes."""

import socket
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from ops_cli.console.errors import OpsError
from ops_cli.dags import git, source

USER, PASSWORD = "ann", "hunter2/@geheim"
QUOTED = "hunter2%2F%40geheim"


class Guarded(SimpleHTTPRequestHandler):
    """A repository by the dumb protocol, for who logs in."""

    def do_GET(self) -> None:
        wanted = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") == wanted:
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has there
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Serve a repository with one commit; the address has no scheme and no login."""
    work, bare = tmp_path / "work", tmp_path / "x.git"
    subprocess.run(["git", "init", "-q", "-b", "main", work], check=True)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run(["git", "-C", work, *identity, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", work, bare], check=True)
    subprocess.run(["git", "-C", bare, "update-server-info"], check=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Guarded, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}/x.git"
        server.shutdown()


def test_login_of_an_address_opens_the_repository(served: str) -> None:
    assert len(source.head(f"http://{USER}:{QUOTED}@{served}", "main")) == 40
    with pytest.raises(OpsError, match="git ls-remote"):
        source.head(f"http://{USER}:wrong@{served}", "main")


def test_refused_login_names_no_secret(served: str) -> None:
    for login in (f"{USER}:hunter3", "token-hunter3"):
        with pytest.raises(OpsError, match="git ls-remote") as failure:
            source.head(f"http://{login}@{served}", "main")
        assert "hunter3" not in str(failure.value)


def test_timeout_says_where_and_names_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(git, "_TIMEOUT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}/x.git"
        url = f"http://{USER}:{QUOTED}@{place}"
        for attempt in (lambda: source.head(url, "main"), lambda: source.clone(url, "main", tmp_path)):
            with pytest.raises(OpsError, match=f"of http://{place} has not ended within 1 s") as failure:
                attempt()
            assert "hunter2" not in str(failure.value)
            assert failure.value.__cause__ is None


def test_login_is_in_the_words_of_no_process() -> None:
    shown: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def look() -> None:
            connection, _ = server.accept()
            with connection:
                for path in Path("/proc").glob("[0-9]*/cmdline"):
                    try:
                        shown.append(path.read_bytes())
                    except OSError:
                        continue

        looking = Thread(target=look)
        looking.start()
        port = server.getsockname()[1]
        with pytest.raises(OpsError):
            source.head(f"http://{USER}:{QUOTED}@127.0.0.1:{port}/x.git", "main")
        looking.join(30)
    assert any(f"127.0.0.1:{port}".encode() in words for words in shown)
    assert not [words for words in shown if b"hunter2" in words]


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("https://ann:pw@example.com/x.git", "https://example.com/x.git"),
        ("https://token@example.com/x.git", "https://example.com/x.git"),
        ("https://example.com/x.git?private_token=abc", "https://example.com/x.git"),
        ("git@example.com:x.git", "git@example.com:x.git"),
    ],
)
def test_address_is_shown_without_its_login(url: str, plain: str) -> None:
    assert git.without_login(url) == plain


def test_user_of_an_ssh_address_is_given_to_git_and_its_password_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_SSH_COMMAND", "echo >&2 called with:")
    with pytest.raises(OpsError, match=r"git@example\.invalid") as failure:
        source.head("ssh://git:hunter2@example.invalid/x.git", "main")
    assert "hunter2" not in str(failure.value)
