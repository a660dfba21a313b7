"""One keeper a host, whatever becomes of its settings' file."""

import fcntl
from pathlib import Path

import pytest

from ops_airflow.scheduler import main

SETTINGS = '{"database": {}, "listen_address": "127.0.0.1", "listen_port": 0}'


def test_second_keeper_is_refused_after_its_settings_were_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, lock = tmp_path / "keeper.json", tmp_path / "keeper.lock"
    settings.write_text(SETTINGS)
    with lock.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        (tmp_path / "new").write_text(SETTINGS)
        (tmp_path / "new").rename(settings)
        assert main.run(settings, lock) == 1
    assert capsys.readouterr().err == (
        f"airfleet-keeper: another keeper holds {lock}: see systemctl status airflow-scheduler\n"
    )


def test_keeper_that_cannot_lock_says_how_to_start_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keeper.json").write_text(SETTINGS)
    lock = tmp_path / "away" / "keeper.lock"
    assert main.run(tmp_path / "keeper.json", lock) == 1
    assert capsys.readouterr().err == (
        f"airfleet-keeper: {lock}: No such file or directory; type: systemctl start airflow-scheduler\n"
    )
