import io
import json
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from ops_agent import main
from tests.unit.ops_agent.metadata import sample


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the words that name the settings of a host whose store is tmp_path/store."""
    # It would change the user of the tests' own process.
    monkeypatch.setattr("ops_agent.host.user.become", lambda _user: None)
    file = tmp_path / "archive.json"
    raw = {
        "destination": str(tmp_path / "store"),
        "dsn": "host=/nowhere",
        "user": "root",
        "policy_file": str(tmp_path / "policy.yml"),
        "state_directory": str(tmp_path),
        "environment": {},
    }
    file.write_text(json.dumps(raw))
    return ["archive", "--archive-settings", str(file)]


def last(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_list_of_an_empty_store_is_empty(settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*settings, "list"]) == 0
    assert last(capsys)["archives"] == []


def test_store_may_be_another_one(settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = sample.write(tmp_path / "elsewhere")
    assert main.run([*settings, "--store", str(tmp_path / "elsewhere"), "show", archive.archive_id]) == 0
    assert last(capsys)["archive_id"] == archive.archive_id


def test_verify_exits_with_4_and_still_says_what_it_found(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = sample.write(tmp_path / "store")
    assert main.run([*settings, "verify", archive.archive_id]) == 0
    capsys.readouterr()
    (tmp_path / "store" / archive.archive_id / "data/public.dag_run/000001.parquet").write_bytes(b"")
    assert main.run([*settings, "verify", archive.archive_id]) == 4
    assert last(capsys)["problems"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["show", "20260101T000000Z-000000"], r"no manifest.json"),
        (["show", "../../etc"], "is no archive id"),
        (["restore", "--archive", "20260101T000000Z-000000"], "no manifest.json"),
        (["restore", "--run", "a", "b", "--keep-for", "soon"], "--keep-for: 'soon' is no duration"),
        (["prune", "--older-than", "365d"], "PostgreSQL: "),
    ],
)
def test_failure_is_one_line_on_stderr_and_exit_code_1(
    settings: list[str], capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    assert main.run([*settings, *words]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("ops-agent: ")
    assert text in printed.err


@pytest.mark.parametrize("action", [["list"], ["query"], ["verify", "20260101T000000Z-000000"]])
def test_object_store_that_is_away_is_one_line(
    settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], action: list[str]
) -> None:
    S3FileSystem.clear_instance_cache()
    # Nothing listens on port 9.
    away = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "ENDPOINT_URL": "http://127.0.0.1:9"}
    for name, value in (away | {"MAX_ATTEMPTS": "1", "DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT 1"))
    assert main.run([*settings, "--store", "s3://away/production", *action]) == 1
    S3FileSystem.clear_instance_cache()
    told = capsys.readouterr().err
    assert told.startswith("ops-agent: s3://away/production: ")
    assert told.count("\n") == 1


def test_store_of_a_kind_that_nobody_knows_is_one_line(settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*settings, "--store", "nonsense://bucket", "list"]) == 1
    assert capsys.readouterr().err.startswith("ops-agent: nonsense://bucket: ")


def test_host_without_an_archive_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["archive", "--archive-settings", str(tmp_path / "none"), "list"]) == 1
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("retention: 90d\ntables: {log: 30d}", 0, ""),
        ("retention: 90 days", 1, "90 days"),
        ("retention: 90d\ntables: {task_instance: 30d}", 1, "task_instance"),
        ("a: [", 1, "no YAML"),
    ],
)
def test_policy_is_checked_before_a_vacuum_needs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, code: int, reason: str
) -> None:
    file = tmp_path / "policy.yml"
    file.write_text(text)
    assert main.run(["archive", "check-policy", str(file)]) == code
    assert reason in capsys.readouterr().err
