"""A web node that dies costs no request and no session; drains hold; each port shows only what it is for."""

import csv
import http.client
import io
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from testinfra.host import Host

testinfra_hosts = ["ansible://lb"]

Machine = Callable[[str], Host]
Wait = Callable[..., Any]
SOCKET = "socat -t 5 - /run/haproxy/admin.sock"
API_SERVER = "airflow-api-server"
SECRETS = Path("/var/lib/airfleet/lab/secrets")


def say(host: Host, words: str) -> str:
    """Send one command to HAProxy's runtime socket."""
    return str(host.check_output(f"echo '{words}' | {SOCKET}"))


def servers(host: Host) -> dict[str, dict[str, str]]:
    """Return HAProxy's statistics of every api-server, by its name."""
    rows = csv.DictReader(io.StringIO(say(host, "show stat").lstrip("# ")))
    return {row["svname"]: row for row in rows if row["pxname"] == "api_servers" and row["svname"] != "BACKEND"}


def states(host: Host) -> dict[str, str]:
    return {name: row["status"] for name, row in servers(host).items()}


@pytest.fixture(autouse=True)
def _every_server_serves(host: Host, wait_until: Wait) -> Iterator[None]:
    def all_up() -> bool:
        return set(states(host).values()) == {"UP"}

    wait_until(all_up, deadline=180, what="every api-server is up before the test")
    yield
    for name in servers(host):
        say(host, f"set server api_servers/{name} state ready")
    wait_until(all_up, deadline=180, what="every api-server is up again")


@pytest.fixture
def url(host: Host) -> Callable[..., str]:
    address = host.backend.get_variables()["ansible_host"]
    return lambda port, path: f"http://{address}:{port}{path}"


def _status(url: str, **kwargs: Any) -> int:
    return requests.get(url, timeout=10, allow_redirects=False, **kwargs).status_code


def _log_in(url: Callable[..., str], password: str) -> requests.Session:
    """Log in as a browser does: the form with its token, then cookies."""
    session = requests.Session()
    form = session.get(url(8080, "/auth/login/"), timeout=30).text
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', form)
    assert token, form
    fields = {"username": "admin", "password": password, "csrf_token": token[1]}
    session.post(url(8080, "/auth/login/"), data=fields, timeout=30).raise_for_status()
    return session


def _under_load(address: str, session: requests.Session, event: Callable[[], object]) -> Counter[object]:
    """Send 200 requests, 8 at a time, let `event` happen after the 50th, and count how they were answered."""
    sent, ready = iter(range(200)), threading.Event()

    def send(_: int) -> object:
        if next(sent) == 50:
            ready.set()
        try:
            return session.get(address, timeout=30).status_code
        except requests.RequestException as error:
            return repr(error)

    with ThreadPoolExecutor(9) as pool:
        happened = pool.submit(lambda: ready.wait(60) and event())
        answers = Counter(pool.map(send, range(200)))
        assert happened.result() is not False
    return answers


@contextmanager
def _dead(web: Host) -> Iterator[None]:
    """Kill the api-server, and go on when its port is closed: `stop` waits for the last of its processes."""
    try:
        web.check_output(f"systemctl kill --signal=KILL {API_SERVER} && systemctl stop {API_SERVER}")
        yield
    finally:
        web.check_output(f"systemctl start --no-block {API_SERVER}")


def test_service_is_enabled_and_its_files_are_closed(host: Host) -> None:
    service = host.service("haproxy")
    assert service.is_running
    assert service.is_enabled
    login, settings = host.file("/etc/haproxy/users.cfg"), host.file("/etc/haproxy/haproxy.cfg")
    assert (login.user, login.group, login.mode) == ("root", "root", 0o600)
    assert (settings.user, settings.mode) == ("root", 0o644)
    assert "password" not in settings.content_string
    workers = host.process.filter(comm="haproxy", user="haproxy")
    assert workers, "the process that serves must not be root"


def test_configuration_passes_haproxys_own_check(host: Host) -> None:
    checked = host.run("/usr/sbin/haproxy -c -f /etc/haproxy/haproxy.cfg -f /etc/haproxy/users.cfg")
    assert checked.rc == 0, checked.stderr
    assert "ALERT" not in checked.stderr


def test_web_node_killed_under_load_costs_no_request(
    host: Host, machine: Machine, fleet: Any, wait_until: Wait
) -> None:
    web = machine("web2")
    before = servers(host)["web2"]
    fleet.call("GET", "/version")
    answers = _under_load(
        f"{fleet.base_url}/api/v2/dags?limit=5",
        fleet.session,
        lambda: web.check_output(f"systemctl kill --signal=KILL {API_SERVER}"),
    )
    assert answers == {200: 200}
    wait_until(
        lambda: int(servers(host)["web2"]["chkdown"]) > int(before["chkdown"]),
        deadline=10,
        what="HAProxy notices that web2 went down",
    )


def test_requests_are_spread_over_every_web_node(host: Host, fleet: Any) -> None:
    before = {name: int(row["stot"]) for name, row in servers(host).items()}
    answers = _under_load(f"{fleet.base_url}/api/v2/version", fleet.session, lambda: None)
    assert answers == {200: 200}
    spread = {name: int(row["stot"]) - before[name] for name, row in servers(host).items()}
    assert min(spread.values()) >= 20, spread


def test_login_goes_on_at_a_node_that_takes_over(machine: Machine, fleet: Any) -> None:
    """A POST that meets a closed port was not carried out, so it is sent to another server."""
    login = {"username": "admin", "password": fleet.password}
    with _dead(machine("web1")):
        answers = [requests.post(f"{fleet.base_url}/auth/token", json=login, timeout=30).status_code for _ in range(6)]
    assert answers == [201] * 6


def test_session_survives_its_web_node(
    host: Host, machine: Machine, fleet: Any, url: Callable[..., str], wait_until: Wait
) -> None:
    for name in ("web2", "web3"):
        say(host, f"set server api_servers/{name} state drain")
    session = _log_in(url, fleet.password)
    assert session.get(url(8080, "/ui/auth/me"), timeout=30).json()["username"] == "admin"
    for name in ("web2", "web3"):
        say(host, f"set server api_servers/{name} state ready")
    wait_until(lambda: states(host)["web2"] == states(host)["web3"] == "UP", deadline=10, what="web2 and web3 are back")
    with _dead(machine("web1")):
        answers = [session.get(url(8080, "/ui/auth/me"), timeout=30) for _ in range(10)]
    assert [answer.json()["username"] for answer in answers] == ["admin"] * 10


def test_drained_server_gets_no_request_and_stays_drained_over_a_reload(host: Host, fleet: Any) -> None:
    say(host, "set server api_servers/web3 state drain")
    assert states(host)["web3"].startswith("DRAIN")
    answers = _under_load(
        f"{fleet.base_url}/api/v2/version", fleet.session, lambda: host.check_output("systemctl reload haproxy")
    )
    assert answers == {200: 200}
    assert states(host)["web3"].startswith("DRAIN")
    # The reload began the counts anew.
    assert _under_load(f"{fleet.base_url}/api/v2/version", fleet.session, lambda: None) == {200: 200}
    after = {name: int(row["stot"]) for name, row in servers(host).items()}
    assert after["web3"] == 0
    assert min(after["web1"], after["web2"]) > 0


def test_execution_api_is_only_on_its_own_port(url: Callable[..., str]) -> None:
    assert _status(url(8081, "/execution/health")) == 200
    for path in ("/execution/health", "/execution", "//execution/health"):
        assert _status(url(8080, path)) == 403, path
    for path in ("/", "/api/v2/version", "/auth/login/"):
        assert _status(url(8081, path)) == 403, path


def _raw(url: str, method: str, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
    """Send `path` as it stands: requests would decode it before it is sent."""
    host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request(method, path, headers=headers or {})
    answer = connection.getresponse()
    answer.read()
    return answer


def test_encoded_path_does_not_slip_past(url: Callable[..., str]) -> None:
    assert _raw(url(8080, "/"), "GET", "/%65xecution/health").status == 403


@pytest.mark.parametrize("path", ["/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "//docs", "/%64ocs"])
def test_api_descriptions_are_closed(url: Callable[..., str], path: str) -> None:
    for prefix in ("", "/auth"):
        assert _raw(url(8080, "/"), "GET", prefix + path).status == 404, prefix + path
    assert _raw(url(8081, "/"), "GET", f"/execution{path}").status == 404
    assert _raw(url(8081, "/"), "GET", "/execution/changelog").status == 404


def test_pages_that_look_like_api_descriptions_are_open(url: Callable[..., str]) -> None:
    assert _status(url(8080, "/dags/docs")) == 200


HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Content-Security-Policy": "frame-ancestors 'self'; base-uri 'self'; object-src 'none'; form-action 'self'",
    "Server": None,
    # Not before TLS: a browser would ignore it, or never come back.
    "Strict-Transport-Security": None,
}


@pytest.mark.parametrize(
    ("port", "path", "status"),
    [
        (8080, "/", 200),
        (8080, "/auth/login", 308),
        (8080, "/api/v2/dags", 401),
        (8080, "/api/v2/none", 404),
        (8080, "/docs", 404),
        (8080, "/execution/health", 403),
        (8081, "/execution/health", 200),
        (8081, "/", 403),
        (8404, "/metrics", 403),
        (8404, "/stats", 401),
    ],
)
def test_every_answer_carries_the_security_headers(url: Callable[..., str], port: int, path: str, status: int) -> None:
    answer = requests.get(url(port, path), timeout=30, allow_redirects=False)
    assert answer.status_code == status
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS


def test_page_without_an_api_server_carries_the_security_headers(host: Host, url: Callable[..., str]) -> None:
    for name in servers(host):
        say(host, f"set server api_servers/{name} state maint")
    answer = requests.get(url(8080, "/"), timeout=30)
    assert answer.status_code == 503
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS


def test_what_a_client_says_of_its_way_here_is_not_believed(url: Callable[..., str]) -> None:
    lies = {"Proto": "https", "Host": "evil.example", "Port": "1234", "Prefix": "/evil", "For": "192.0.2.1"}
    answer = _raw(url(8080, "/"), "GET", "/auth/login", {f"X-Forwarded-{name}": value for name, value in lies.items()})
    assert answer.getheader("Location") == url(8080, "/auth/login/")
    assert answer.getheader("Strict-Transport-Security") is None


def test_headers_as_large_as_the_api_servers_take_come_through(url: Callable[..., str]) -> None:
    assert _raw(url(8080, "/"), "GET", "/api/v2/version", {"X-Large": "a" * 60000}).status == 200


LOGINS = [
    "/auth/login/",
    "/auth/login",
    "/auth/token",
    "/auth/token/cli",
    "/auth/tok%65n",
    "/%61uth/login/",
    "//auth/token",
]


@pytest.fixture
def _counts_begin_anew(host: Host) -> Iterator[None]:
    for table in ("ui", "stats"):
        say(host, f"clear table {table}")
    yield
    for table in ("ui", "stats"):
        say(host, f"clear table {table}")


@pytest.mark.usefixtures("_counts_begin_anew")
@pytest.mark.parametrize("path", LOGINS)
def test_logins_of_one_address_are_throttled(url: Callable[..., str], path: str) -> None:
    answers = [_raw(url(8080, "/"), "POST", path) for _ in range(21)]
    assert 429 not in {answer.status for answer in answers[:20]}
    assert (answers[20].status, answers[20].getheader("Retry-After")) == (429, "60")
    # Every spelling is one account of tries; whoever is logged in works on.
    assert {_raw(url(8080, "/"), "POST", path).status for path in LOGINS} == {429}
    assert _raw(url(8080, "/"), "GET", "/auth/login/").status == 200
    assert _raw(url(8080, "/"), "GET", "/api/v2/version").status == 200


@pytest.mark.usefixtures("_counts_begin_anew")
def test_throttled_address_keeps_no_other_out(url: Callable[..., str], machine: Machine) -> None:
    assert [_raw(url(8080, "/"), "POST", "/auth/token").status for _ in range(21)][20] == 429
    post = 'import urllib.request as u; u.urlopen(u.Request("%s", data=b"{}"), timeout=30)'
    said = machine("mq1").run(f"python3 -c '{post}'", url(8080, "/auth/token"))
    assert "429" not in said.stderr
    assert "HTTP Error 4" in said.stderr


@pytest.mark.usefixtures("_counts_begin_anew")
def test_guesses_at_the_statistics_password_are_throttled(url: Callable[..., str]) -> None:
    guesses = [_status(url(8404, "/stats"), auth=("ops", f"guess{number}")) for number in range(21)]
    assert guesses == [401] * 20 + [429]
    password = (SECRETS / "haproxy_stats").read_text().strip()
    assert _status(url(8404, "/stats"), auth=("ops", password)) == 200
    assert _status(url(8404, "/health")) == 200


def test_statistics_ask_for_the_password(url: Callable[..., str]) -> None:
    password = (SECRETS / "haproxy_stats").read_text().strip()
    assert _status(url(8404, "/stats")) == 401
    assert _status(url(8404, "/stats"), auth=("ops", "wrong")) == 401
    page = requests.get(url(8404, "/stats"), auth=("ops", password), timeout=10)
    assert page.status_code == 200
    assert all(name in page.text for name in ("web1", "web2", "web3"))


def test_metrics_are_for_the_fleet_alone(url: Callable[..., str], machine: Machine) -> None:
    assert _status(url(8404, "/metrics")) == 403
    metrics = machine("mq1").check_output(
        "python3 -c 'import urllib.request as u; print(u.urlopen(\"%s\", timeout=10).read().decode())'",
        url(8404, "/metrics"),
    )
    assert re.search(r'haproxy_server_status\{proxy="api_servers",server="web1",state="UP"\} 1', metrics)


def test_answers_carry_the_request_id_of_the_log(host: Host, url: Callable[..., str]) -> None:
    answer = requests.get(url(8080, "/api/v2/version"), headers={"X-Request-ID": "mine"}, timeout=10)
    identity = answer.headers["X-Request-ID"]
    assert identity != "mine"
    assert identity in host.check_output("journalctl -u haproxy -n 200 --no-pager")
