import json
from pathlib import Path

from ops_agent.metadata import runs
from ops_agent.metadata.runs import Run


def figures(directory: Path) -> dict[str, float]:
    lines = (directory / "metrics.prom").read_text().splitlines()
    pairs = (line.split(" ") for line in lines if not line.startswith("#"))
    return {name.removeprefix("metadata_archive_"): float(value) for name, value in pairs}


def test_nothing_is_known_before_the_first_run(tmp_path: Path) -> None:
    assert runs.read(tmp_path) is None
    assert set(runs.probe(tmp_path).values()) == {None}


def test_good_run_is_the_last_success(tmp_path: Path) -> None:
    runs.record(Run(finished_at=1000, seconds=12.5, rows=300, longest_transaction_seconds=0.2), tmp_path)
    found = figures(tmp_path)
    assert found["last_run_timestamp_seconds"] == found["last_success_timestamp_seconds"] == 1000
    assert (found["last_run_rows"], found["last_run_duration_seconds"], found["failures_total"]) == (300, 12.5, 0)


def test_failure_keeps_the_last_success_and_is_counted(tmp_path: Path) -> None:
    runs.record(Run(finished_at=1000, seconds=1, rows=300), tmp_path)
    runs.record(Run(finished_at=2000, seconds=1, error="no space left on device"), tmp_path)
    found = figures(tmp_path)
    assert (found["last_run_timestamp_seconds"], found["last_success_timestamp_seconds"]) == (2000, 1000)
    assert (found["runs_total"], found["failures_total"], found["rows_total"]) == (2, 1, 300)
    assert runs.probe(tmp_path)["error"] == "no space left on device"


def test_timestamp_is_written_whole(tmp_path: Path) -> None:
    runs.record(Run(finished_at=1795190400.5, seconds=1), tmp_path)
    assert figures(tmp_path)["last_run_timestamp_seconds"] == 1795190400.5


def test_damaged_state_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "last.json").write_text("{")
    runs.record(Run(finished_at=1000, seconds=1), tmp_path)
    assert json.loads((tmp_path / "last.json").read_text())["runs"] == 1


def test_metrics_can_be_read_by_another_user(tmp_path: Path) -> None:
    runs.record(Run(finished_at=1000, seconds=1), tmp_path)
    assert (tmp_path / "metrics.prom").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.json", "metrics.prom"]
