from datetime import UTC, datetime
from pathlib import Path

import pytest

from ops_agent.metadata.shelf import listing, prune
from ops_agent.metadata.shelf.manifest import RUNNING, Archive, ArchiveError, archives
from tests.unit.ops_agent.metadata import sample

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = 86400


def test_only_what_is_older_is_chosen(tmp_path: Path) -> None:
    old = sample.write(tmp_path, "20260101T000000Z-aaaaaa", created_at="2026-01-01T00:00:00+00:00")
    sample.write(tmp_path, "20260215T000000Z-bbbbbb", created_at="2026-02-15T00:00:00+00:00")
    chosen = prune.older_than(archives(old.store), 30 * DAY, NOW)
    assert [archive.archive_id for archive in chosen] == [old.archive_id]


def test_age_beyond_the_calendar_chooses_nothing(tmp_path: Path) -> None:
    assert prune.older_than([sample.write(tmp_path)], 9e13, NOW) == []


def test_archive_of_a_vacuum_that_has_not_ended_stays(tmp_path: Path) -> None:
    archive = sample.write(tmp_path, state=RUNNING)
    assert prune.older_than([archive], DAY, NOW) == []
    with pytest.raises(ArchiveError, match=f"ops vacuum --env ENV --archive-to file://{tmp_path},"):
        prune.remove(archive)
    assert listing.entry(archive)["rows"] == 3


def test_removed_archive_leaves_nothing(tmp_path: Path) -> None:
    prune.remove(sample.write(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_interrupted_removal_is_finished_whatever_the_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = sample.write(tmp_path)

    def die(_path: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archive.store, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            prune.remove(archive)
    assert listing.entry(archive)["state"] == prune.PRUNING
    (again,) = prune.older_than(archives(archive.store), 10**6 * DAY, NOW)
    prune.remove(again)
    assert archives(archive.store) == []


def test_damaged_archive_is_listed_with_what_is_wrong(tmp_path: Path) -> None:
    archive = sample.write(tmp_path)
    (tmp_path / archive.archive_id / "manifest.json").write_text("{")
    found = listing.entry(Archive(archive.store, archive.archive_id))
    assert found["state"] == "damaged"
    assert "manifest.json is damaged" in found["error"]


def test_show_adds_up_rows_by_table(tmp_path: Path) -> None:
    found = listing.show(sample.write(tmp_path))
    assert [(table["name"], table["rows"]) for table in found["tables"]] == [
        ("public.dag_run", 2),
        ("celery.celery_taskmeta", 1),
    ]
    assert (found["runs"], found["rows"]) == (2, 3)
