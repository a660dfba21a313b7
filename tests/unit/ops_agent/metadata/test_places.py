from pathlib import Path

import pytest

from ops_agent.metadata.places import Places


def test_places_are_remembered_until_they_are_forgotten(tmp_path: Path) -> None:
    assert Places(tmp_path).known() == []
    for url in ("s3://b/x", "file:///y", "s3://b/x"):
        Places(tmp_path).remember(url)
    assert Places(tmp_path).known() == ["file:///y", "s3://b/x"]
    Places(tmp_path).forget("s3://b/x")
    Places(tmp_path).forget("s3://never")
    assert Places(tmp_path).known() == ["file:///y"]


def test_damaged_list_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "places.json").write_text("[")
    with pytest.raises(ValueError, match="Expecting value"):
        Places(tmp_path).known()
