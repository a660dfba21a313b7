import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops_agent import main
from ops_agent.broker import probe as rabbitmq_probe
from ops_agent.host import probe as host_probes
from ops_agent.host import settings
from ops_agent.host.settings import Settings, Unit
from ops_agent.verbs import status
from ops_release import run
from ops_release.run import ProbeError

AGENT = {
    "tier": "broker",
    "units": [{"name": "rabbitmq-server.service", "state": "active"}],
    "probes": ["rabbitmq"],
    "share_path": "/srv/airflow-dags",
    "database": "airflow",
    "database_port": 5432,
    "rabbitmq_url": "http://127.0.0.1:1",
    "rabbitmq_vhost": "air/flow",
    "queues": ["cpu"],
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "agent.json").write_text(json.dumps(AGENT))
    (tmp_path / "rabbitmq_password").write_text("secret\n")
    return tmp_path


def test_run_returns_what_the_program_prints() -> None:
    assert run.run(["cat"], timeout_seconds=5, stdin="hello") == "hello"


def test_run_abandons_a_program_that_hangs() -> None:
    started = time.monotonic()
    with pytest.raises(ProbeError, match=r"sleep: no answer within 0\.1 s"):
        run.run(["sleep", "60"], timeout_seconds=0.1)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["sh", "-c", "echo first >&2; echo why >&2; exit 3"], "sh: why"),
        (["false"], "false: exit code 1"),
        (["/no/such/program"], "/no/such/program: No such file or directory"),
    ],
)
def test_run_says_why_a_program_failed(command: list[str], text: str) -> None:
    with pytest.raises(ProbeError, match=text):
        run.run(command, timeout_seconds=5)


def test_gather_keeps_the_answers_of_the_others_when_one_fails_or_hangs() -> None:
    def fail() -> None:
        raise ProbeError("refused")

    probes = {"good": lambda: 1, "bad": fail, "hanging": lambda: time.sleep(5)}
    answers, errors = status.gather(probes, deadline_seconds=0.3)
    assert answers == {"good": 1}
    assert errors == {"bad": "refused", "hanging": "no answer within 0.3 s"}


def test_probes_are_those_of_every_host_and_those_it_was_given(directory: Path) -> None:
    assert list(status.probes(settings.load(directory))) == ["units", "failed_units", "versions", "disks", "rabbitmq"]


def show(*states: tuple[str, str]) -> str:
    return "\n\n".join(f"LoadState={load}\nActiveState={active}" for load, active in states) + "\n"


def test_units_are_read_in_order_and_one_that_is_missing_is_named() -> None:
    wanted = [Unit(("a.service",), "active"), Unit(("b.mount",), "active"), Unit(("c.service",), "inactive")]
    shown = show(("loaded", "active"), ("not-found", "inactive"), ("masked", "inactive"))
    assert host_probes.states(wanted, shown) == [
        {"name": "a.service", "state": "active", "expected": "active"},
        {"name": "b.mount", "state": "not-found", "expected": "active"},
        {"name": "c.service", "state": "masked", "expected": "inactive"},
    ]


@pytest.mark.parametrize(
    ("first", "second", "name", "state"),
    [
        ("loaded", "not-found", "a", "active"),
        ("not-found", "loaded", "b", "active"),
        ("not-found",) * 2 + ("a", "not-found"),
    ],
)
def test_unit_of_several_names_is_the_one_the_host_has(first: str, second: str, name: str, state: str) -> None:
    (unit,) = host_probes.states([Unit(("a", "b"), "active")], show((first, "active"), (second, "active")))
    assert (unit["name"], unit["state"]) == (name, state)


def test_share_that_is_not_mounted_does_not_respond(directory: Path) -> None:
    assert host_probes.share(settings.load(directory)) == {
        "path": "/srv/airflow-dags",
        "unit": r"srv-airflow\x2ddags.mount",
        "mounted": False,
        "responding": False,
        "refusal": "",
    }


def test_disks_leave_network_filesystems_alone() -> None:
    mounts = "nfs1:/dags /srv nfs4 rw 0 0\n/dev/a / ext4 rw 0 0\n/dev/a /etc ext4 rw 0 0\n"
    (disk,) = host_probes.disks(mounts)
    assert disk["path"] == "/"
    assert 0 <= disk["used_percent"] <= 100


class Api(http.server.BaseHTTPRequestHandler):
    """RabbitMQ's management API with one task queue, one of Celery's own, and a disk alarm."""

    def do_GET(self) -> None:
        alarms = self.path.startswith("/api/health/checks/alarms")
        allowed = self.headers["Authorization"] == "Basic bW9uaXRvcjpzZWNyZXQ="
        self.send_response(401 if not allowed else 503 if alarms else 200)
        self.end_headers()
        queues = [
            {"name": "io", "type": "quorum", "messages_ready": 2, "messages_unacknowledged": 1, "consumers": 1},
            {"name": "cpu", "type": "quorum"},
            {"name": "celeryev.1", "type": "classic", "messages_ready": 9},
        ]
        # A virtual host's name may have a slash in it.
        queues = queues if self.path.startswith("/api/queues/air%2Fflow?") else []
        self.wfile.write(json.dumps({"alarms": [{"resource": "disk"}]} if alarms else queues).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def broker(directory: Path) -> Iterator[Settings]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        agent = AGENT | {"rabbitmq_url": f"http://127.0.0.1:{server.server_port}"}
        (directory / "agent.json").write_text(json.dumps(agent))
        yield settings.load(directory)
        server.shutdown()


def test_broker_probe_counts_task_queues_alone(broker: Settings) -> None:
    assert rabbitmq_probe.probe(broker) == {
        "queues": [
            {"name": "io", "ready": 2, "unacked": 1, "consumers": 1},
            {"name": "cpu", "ready": 0, "unacked": 0, "consumers": 0},
        ],
        "expected_queues": ["cpu"],
        "alarms": ["disk"],
    }


def test_broker_probe_reports_a_wrong_password(broker: Settings) -> None:
    broker.rabbitmq_password_file.write_text("wrong")
    with pytest.raises(ProbeError, match="401"):
        rabbitmq_probe.probe(broker)


def test_broker_probe_reports_a_broker_that_is_down(directory: Path) -> None:
    with pytest.raises(ProbeError, match="Connection refused"):
        rabbitmq_probe.probe(settings.load(directory))


def test_status_prints_one_json_object_whatever_fails(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--settings", str(directory), "status", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    report = json.loads(line)
    assert report["tier"] == "broker"
    assert "rabbitmq" in report["errors"]


def test_status_without_settings_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--settings", str(tmp_path), "status"]) == 1
    assert "converge role ops_agent" in capsys.readouterr().err
