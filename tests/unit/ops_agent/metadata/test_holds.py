from pathlib import Path

import pytest

from ops_agent.metadata import holds


def test_nothing_is_held_at_first(tmp_path: Path) -> None:
    assert holds.held(tmp_path) == []


def test_runs_are_held_until_their_time_is_over(tmp_path: Path) -> None:
    holds.hold(tmp_path, [3, 1], seconds=10, now=100)
    holds.hold(tmp_path, [2, 3], seconds=100, now=100)
    assert holds.held(tmp_path, now=109) == [1, 2, 3]
    assert holds.held(tmp_path, now=111) == [2, 3]


def test_hold_that_is_over_is_forgotten(tmp_path: Path) -> None:
    holds.hold(tmp_path, [1], seconds=1, now=100)
    holds.hold(tmp_path, [2], seconds=1, now=200)
    assert "1" not in (tmp_path / "holds.json").read_text().partition("runs")[2]


def test_damaged_list_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "holds.json").write_text("[")
    with pytest.raises(ValueError, match="Expecting"):
        holds.held(tmp_path)
