from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ops_agent.metadata.shelf import prune, query, verify
from ops_agent.metadata.shelf.manifest import EXPORTED, Archive, ArchiveError, archives
from ops_agent.metadata.shelf.store import open_store
from tests.unit.ops_agent.metadata import sample


def rows(archives: list[Archive], sql: str) -> list[list[Any]]:
    head, *parts = query.query(archives, sql)
    assert "columns" in head
    return [row for part in parts for row in part["rows"]]


def test_every_archive_answers_together(tmp_path: Path) -> None:
    archives = [
        sample.write(tmp_path),
        sample.write(tmp_path, "20260201T000000Z-abcdef", runs=({"id": 9, "dag_id": "c"},)),
    ]
    assert rows(archives, "SELECT archive[:8], dag_id FROM dag_run ORDER BY dag_id") == [
        ["20260101", "a"],
        ["20260101", "b"],
        ["20260201", "c"],
    ]


def test_columns_are_those_of_the_table(tmp_path: Path) -> None:
    head = next(query.query([sample.write(tmp_path)], "SELECT * FROM dag_run"))
    assert head == {"columns": ["archive", "id", "dag_id", "conf", "end_date"]}


def test_table_of_another_schema_keeps_it(tmp_path: Path) -> None:
    assert rows([sample.write(tmp_path)], "SELECT id FROM celery.celery_taskmeta") == [[7]]


def test_json_is_a_text_that_duckdb_reads(tmp_path: Path) -> None:
    assert rows([sample.write(tmp_path)], "SELECT conf->>'x' FROM dag_run WHERE conf IS NOT NULL") == [["1"]]


def test_time_is_answered_in_utc(tmp_path: Path) -> None:
    answer = rows([sample.write(tmp_path)], "SELECT TIMESTAMPTZ '2026-01-01 12:00:00+02'")
    assert answer == [["2026-01-01 10:00:00+00:00"]]


def test_time_that_python_lacks_is_answered_as_postgres_has_it(tmp_path: Path) -> None:
    runs = tuple({"id": n, "dag_id": "a", "end_date": time} for n, time in enumerate((0, -62_135_596_800_000_001)))
    archives = [sample.write(tmp_path, runs=runs)]
    answer = rows(archives, "SELECT end_date FROM dag_run ORDER BY id")
    assert answer == [["1970-01-01 00:00:00+00:00"], ["0001-12-31 23:59:59.999999+00 BC"]]
    with pytest.raises(ArchiveError, match="unnest"):
        rows(archives, "SELECT list(end_date) FROM dag_run")


def test_nothing_to_answer_is_no_row(tmp_path: Path) -> None:
    assert rows([sample.write(tmp_path)], "SELECT * FROM dag_run WHERE false") == []


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE x (a int)",
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "SELECT 1; SELECT 2",
        "",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SET enable_external_access = true",
        "SELECT nothing FROM dag_run",
    ],
)
def test_anything_but_one_select_over_the_archives_is_refused(tmp_path: Path, sql: str) -> None:
    with pytest.raises(ArchiveError):
        rows([sample.write(tmp_path)], sql)


def test_rows_that_are_still_in_the_database_are_not_answered(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="dag_run"):
        rows([sample.write(tmp_path, batch_state=EXPORTED)], "SELECT * FROM dag_run")


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Archive]:
    """An archive in an object store, which lives in memory."""
    local = sample.write(tmp_path)
    store = open_store("memory://bucket/production")
    for path in local.store.list(local.archive_id):
        store.write(path, local.store.read(path))
    (archive,) = archives(store)
    yield archive
    store.remove("")


def test_archive_in_an_object_store_is_verified_queried_and_removed(bucket: Archive) -> None:
    assert verify.verify(bucket).problems == []
    assert rows([bucket, bucket], "SELECT DISTINCT archive, dag_id FROM dag_run ORDER BY 2") == [
        [bucket.archive_id, "a"],
        [bucket.archive_id, "b"],
    ]
    prune.remove(bucket)
    assert archives(bucket.store) == []


@pytest.mark.parametrize("file", ["/etc/passwd", "memory://bucket/other"])
def test_query_of_an_object_store_reaches_nothing_else(bucket: Archive, file: str) -> None:
    with pytest.raises(ArchiveError, match="disabled by configuration"):
        rows([bucket], f"SELECT * FROM read_text('{file}')")


def test_query_that_outgrows_its_memory_is_answered_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the engine's user, whom nothing where it is started belongs to.
    monkeypatch.chdir("/proc")
    monkeypatch.setattr(query, "LIMITS", query.LIMITS.replace("256MB", "40MB"))
    large = (
        "SELECT md5(i::varchar) AS m FROM range(1000000) t(i), dag_run WHERE dag_run.id = 1 ORDER BY m OFFSET 999999"
    )
    ((last,),) = rows([sample.write(tmp_path)], large)
    assert last.startswith("ffff")
