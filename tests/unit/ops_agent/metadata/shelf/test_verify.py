from pathlib import Path

import pytest

from ops_agent.metadata.shelf import verify
from ops_agent.metadata.shelf.manifest import EXPORTED, Archive, ArchiveError
from tests.unit.ops_agent.metadata import sample

RUNS = "data/public.dag_run/000001.parquet"


def problem(archive: Archive) -> str:
    (found,) = verify.verify(archive).problems
    return found


def test_archive_as_written_has_no_problem(tmp_path: Path) -> None:
    report = verify.verify(sample.write(tmp_path))
    assert report.problems == []
    assert (report.batches, report.files, report.rows) == (2, 2, 3)


def test_truncated_file_is_named(tmp_path: Path) -> None:
    archive = sample.write(tmp_path)
    file = tmp_path / archive.archive_id / RUNS
    file.write_bytes(file.read_bytes()[:-1])
    assert RUNS in problem(archive)
    assert "bytes" in problem(archive)


def test_altered_byte_is_found(tmp_path: Path) -> None:
    archive = sample.write(tmp_path)
    file = tmp_path / archive.archive_id / RUNS
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(content)
    assert "SHA-256" in problem(archive)


def test_missing_file_is_named(tmp_path: Path) -> None:
    archive = sample.write(tmp_path)
    (tmp_path / archive.archive_id / RUNS).unlink()
    assert RUNS in problem(archive)


def test_lost_batch_document_is_missed(tmp_path: Path) -> None:
    archive = sample.write(tmp_path)
    (tmp_path / archive.archive_id / "batches/000001.json").unlink()
    assert "batch 1 has no document" in problem(archive)


def test_damaged_batch_document_is_named(tmp_path: Path) -> None:
    archive = sample.write(tmp_path)
    (tmp_path / archive.archive_id / "batches/000002.json").write_text("{")
    assert "000002.json is damaged" in problem(archive)


def test_batch_whose_rows_may_still_be_in_the_database_does_not_count(tmp_path: Path) -> None:
    assert verify.verify(sample.write(tmp_path, batch_state=EXPORTED)).files == 0


def test_archive_without_a_manifest_cannot_be_verified(tmp_path: Path) -> None:
    archive = sample.write(tmp_path)
    (tmp_path / archive.archive_id / "manifest.json").unlink()
    with pytest.raises(ArchiveError, match=r"no manifest\.json"):
        verify.verify(archive)
