"""What a vacuum took comes back equal, or not at all and with a reason."""

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ops_agent.metadata import holds, lock, session
from ops_agent.metadata.put_back.restore import RestoreError, Restorer, Source
from ops_agent.metadata.shelf import listing, manifest, prune, verify
from ops_agent.metadata.shelf.manifest import Archive
from ops_agent.metadata.shelf.store import Directory
from tests.bench.vacuum import generator
from tests.lab.vacuum.cluster import Cluster, Rows, orphans, rows
from tests.lab.vacuum.conftest import Vacuum

ROOT = Path(__file__).parents[3]
RUN = "SELECT id, dag_id, run_id FROM dag_run WHERE end_date < now() - interval '100 days' ORDER BY id OFFSET 7 LIMIT 1"
LIVING = "import sys; from ops_agent.main import run; sys.exit(run(sys.argv[1:]))"
# Dies by itself when the restore has made so much of its text: in the middle of a transaction.
DYING = """
import os, signal, sys
from ops_agent.metadata.shelf import copy_text
from ops_agent.main import run
made, whole = 0, copy_text.chunks
def chunks(*arguments, **options):
    global made
    for text in whole(*arguments, **options):
        made += 1
        if made > int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield text
copy_text.chunks = chunks
sys.exit(run(sys.argv[2:]))
"""
# Values that have been lost on their way through text formats before.
ODDITIES = r"""
UPDATE task_instance SET duration = 0.1 + 0.2, hostname = E'tab\there', executor_config = '\x00ff5c4e'
  WHERE task_id = 'task_1';
INSERT INTO task_instance_note (ti_id, content, created_at, updated_at)
  SELECT id, E'a\n\\.\nb\r\\N\t"quoted", é 🚀', now(), now() FROM task_instance WHERE task_id = 'task_2';
INSERT INTO task_instance_note (ti_id, content, created_at, updated_at)
  SELECT id, '', now(), now() FROM task_instance WHERE task_id = 'task_3';
INSERT INTO dag_run_note (dag_run_id, content, created_at, updated_at)
  SELECT id, NULL, now(), now() FROM dag_run WHERE id % 3 = 0;
UPDATE dag_run SET conf = '{"a": "\\n \\u00e9", "b": [1e300]}' WHERE id % 5 = 0;
"""


class Database:
    """A copy of the filled database, seen by its superuser; `dsn` is the engine's way in."""

    def __init__(self, cluster: Cluster, name: str, connection: psycopg.Connection[Any]) -> None:
        self.dsn = cluster.dsn(name)
        self.connection = connection

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(statement, values or None)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []

    def dump(self) -> Rows:
        return rows(self.connection)

    def sequences(self) -> list[tuple[Any, ...]]:
        return self.run("SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2")


@pytest.fixture(scope="module")
def filled(cluster: Cluster) -> str:
    name = cluster.fresh("filled")
    with cluster.connect(name) as connection:
        generator.fill(connection, 2000)
        connection.execute(ODDITIES)
    return name


@pytest.fixture
def database(cluster: Cluster, filled: str, request: pytest.FixtureRequest) -> str:
    return cluster.fresh("r_" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12], filled)


@pytest.fixture
def live(cluster: Cluster, database: str, admin: psycopg.Connection[Any]) -> Database:
    return Database(cluster, database, admin)


def restore(live: Database, store: Directory, what: Callable[[Restorer], None] | None = None) -> dict[str, Any]:
    """Restore all archives, or what `what` does, as the engine's own login."""
    sources = [Source.read(archive) for archive in reversed(manifest.archives(store))]
    with session.connect(live.dsn, "a test") as connection:
        restorer = Restorer(connection, sources, lambda _outcome: None)
        if what:
            what(restorer)
        else:
            for source in sources:
                restorer.archive(source)
    return restorer.outcome.as_json()


def settings(live: Database, store: Directory, directory: Path) -> list[str]:
    """Return the words that let ops-agent work on this database and store."""
    raw = {
        "destination": str(store.root),
        "dsn": live.dsn,
        "user": "archive",
        "policy_file": str(directory / "policy.yml"),
        "state_directory": str(directory),
        "environment": {},
    }
    (directory / "archive.json").write_text(json.dumps(raw))
    return ["archive", "--archive-settings", str(directory / "archive.json")]


def agent(words: list[str], program: str = LIVING) -> "subprocess.CompletedProcess[str]":
    """Run ops-agent in a process of its own, which keeps its user: there is none called archive here."""
    stay = "from ops_agent.host import user; user.become = lambda name: None\n"
    command = [sys.executable, "-c", stay + program, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def run_of(live: Database) -> tuple[int, str, str]:
    ((run, dag_id, run_id),) = live.run(RUN)
    return run, dag_id, run_id


def rows_of(live: Database, run: int) -> dict[str, list[str]]:
    queries = {
        "dag_run": "SELECT r::text FROM dag_run r WHERE id = %s",
        "task_instance": "SELECT t::text FROM task_instance t JOIN dag_run d USING (dag_id, run_id) WHERE d.id = %s",
        "xcom": "SELECT x::text FROM xcom x WHERE dag_run_id = %s",
        "task_instance_note": (
            "SELECT n::text FROM task_instance_note n JOIN task_instance t ON t.id = n.ti_id"
            " JOIN dag_run d USING (dag_id, run_id) WHERE d.id = %s"
        ),
    }
    return {table: sorted(row for (row,) in live.run(query, run)) for table, query in queries.items()}


def test_dump_after_vacuum_and_restore_is_the_dump_before(live: Database, store: Directory, vacuum: Vacuum) -> None:
    before, numbers = live.dump(), live.sequences()
    taken = vacuum()
    assert sum(table["deleted"] for table in taken["tables"]) > 5000
    assert live.dump() != before
    found = restore(live, store)
    assert found["rows"] == sum(table["archived"] for table in taken["tables"])
    assert live.dump() == before
    assert live.sequences() == numbers
    assert orphans(live.connection) == []


def test_times_that_python_lacks_come_back_equal(live: Database, store: Directory, vacuum: Vacuum) -> None:
    """Infinity, times BC and those after Arrow's last year go with their rows, and stop no vacuum."""
    odd = ("infinity", "-infinity", "4714-11-24 BC", "0001-12-31 23:59:59.999999 BC", "40000-01-01", "294276-12-31")
    for number, moment in enumerate(odd):
        live.run(
            "UPDATE dag_run SET start_date = %s, data_interval_start = %s"
            " WHERE id = (SELECT id FROM dag_run WHERE state = 'success' ORDER BY run_after OFFSET %s LIMIT 1)",
            moment,
            moment,
            number,
        )
    before = live.dump()
    vacuum()
    assert live.run("SELECT count(*) FROM dag_run WHERE start_date NOT BETWEEN '0001-01-01' AND '9999-01-01'") == [(0,)]
    restore(live, store)
    assert live.dump() == before


def test_restoring_again_does_nothing_twice(live: Database, store: Directory, vacuum: Vacuum) -> None:
    before = live.dump()
    vacuum()
    restore(live, store)
    again = restore(live, store)
    assert (again["rows"], again["runs"]) == (0, 0)
    assert again["present"] > 0
    assert live.dump() == before


def test_one_run_comes_back_with_its_parents_and_nothing_else(live: Database, store: Directory, vacuum: Vacuum) -> None:
    run, dag_id, run_id = run_of(live)
    before = rows_of(live, run)
    assert len(before["task_instance"]) == 10
    assert before["task_instance_note"]
    vacuum()
    ((others,),) = live.run("SELECT count(*) FROM dag_run")
    found = restore(live, store, lambda restorer: restorer.run(dag_id, run_id))
    assert found["runs"] == 1
    assert rows_of(live, run) == before
    assert live.run("SELECT count(*) FROM dag_run") == [(others + 1,)]
    assert orphans(live.connection) == []


def test_dry_run_counts_what_a_restore_does_and_writes_nothing(
    live: Database, store: Directory, vacuum: Vacuum
) -> None:
    vacuum()
    empty = live.dump()
    (source,) = [Source.read(archive) for archive in manifest.archives(store)]
    with session.connect(live.dsn, "a test") as connection:
        planned = Restorer(connection, [source], lambda _outcome: None, dry_run=True)
        planned.archive(source)
    assert live.dump() == empty
    assert restore(live, store)["tables"] == planned.outcome.as_json()["tables"]


@pytest.mark.parametrize("texts", [0, 1, 3, 5, 7, 9])
def test_restore_that_is_killed_leaves_whole_batches_and_is_finished_by_the_next(
    live: Database, store: Directory, vacuum: Vacuum, tmp_path: Path, texts: int
) -> None:
    before = live.dump()
    archive_id = vacuum()["archive_id"]
    words = [*settings(live, store, tmp_path), "restore", "--archive", archive_id]
    died = agent([str(texts), *words], DYING)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert orphans(live.connection) == []
    assert live.dump() != before
    restore(live, store)
    assert live.dump() == before


def test_restored_runs_stay_until_their_time_is_over(
    live: Database, store: Directory, vacuum: Vacuum, tmp_path: Path
) -> None:
    run, dag_id, run_id = run_of(live)
    vacuum()
    words = [*settings(live, store, tmp_path), "restore", "--run", dag_id, run_id]
    done = agent(words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["runs"] == 1
    held = holds.held(tmp_path)
    assert held == [run]
    vacuum(held=tuple(held))
    assert live.run("SELECT id FROM dag_run WHERE id = %s", run) == [(run,)]
    vacuum()
    assert live.run("SELECT id FROM dag_run WHERE id = %s", run) == []


def test_restored_run_that_was_taken_again_comes_back_from_the_newest_archive(
    live: Database, store: Directory, vacuum: Vacuum
) -> None:
    run, dag_id, run_id = run_of(live)
    vacuum()
    restore(live, store, lambda restorer: restorer.run(dag_id, run_id))
    live.run("UPDATE dag_run SET state = 'failed' WHERE id = %s", run)
    changed = rows_of(live, run)
    vacuum()
    restore(live, store, lambda restorer: restorer.run(dag_id, run_id))
    assert rows_of(live, run) == changed


def refusal(live: Database, store: Directory, what: Callable[[Restorer], None] | None = None) -> str:
    """Return why a restore was refused; it must have changed nothing."""
    before = live.dump()
    with pytest.raises((RestoreError, manifest.ArchiveError)) as caught:
        restore(live, store, what)
    assert live.dump() == before
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("ALTER TABLE task_instance DROP COLUMN hostname", "public.task_instance.hostname is not in the database"),
        ("ALTER TABLE dag_run ALTER COLUMN clear_number TYPE bigint", "clear_number was integer and is bigint"),
        ("ALTER TABLE log ADD COLUMN new integer; UPDATE log SET new = 1; ALTER TABLE log ALTER new SET NOT NULL",
         "public.log.new is new and has no default"),
    ],
)  # fmt: skip
def test_schema_that_does_not_fit_is_refused_by_column(
    live: Database, store: Directory, vacuum: Vacuum, change: str, text: str
) -> None:
    vacuum()
    for statement in change.split("; "):
        live.run(statement)
    assert text in refusal(live, store)


def test_newer_schema_whose_columns_fill_themselves_fits(live: Database, store: Directory, vacuum: Vacuum) -> None:
    vacuum()
    live.run("ALTER TABLE task_instance ADD COLUMN new integer NOT NULL DEFAULT 7")
    assert restore(live, store)["runs"] > 0
    assert live.run("SELECT DISTINCT new FROM task_instance") == [(7,)]


def test_run_that_was_started_anew_is_not_overwritten(live: Database, store: Directory, vacuum: Vacuum) -> None:
    run, dag_id, run_id = run_of(live)
    vacuum()
    columns = ", ".join(
        name
        for (name,) in live.run(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'dag_run'::regclass AND attnum > 0 AND NOT attisdropped"
            " AND attname NOT IN ('id', 'run_id', 'logical_date')"
        )
    )
    live.run(
        f"INSERT INTO dag_run (run_id, {columns}) SELECT %s, {columns} FROM dag_run WHERE dag_id = %s LIMIT 1",
        run_id,
        dag_id,
    )
    reason = refusal(live, store)
    assert all(word in reason for word in (run_id, dag_id, f"id {run}", "cannot go back"))


def test_number_that_this_database_never_gave_out_is_refused(live: Database, store: Directory, vacuum: Vacuum) -> None:
    vacuum()
    live.run("SELECT setval('dag_run_id_seq', 3)")
    assert "public.dag_run.id" in refusal(live, store)


def test_parent_that_is_gone_for_good_is_named(live: Database, store: Directory, vacuum: Vacuum) -> None:
    _, dag_id, run_id = run_of(live)
    vacuum(tables=("public.dag_run",))
    live.run("DELETE FROM task_instance WHERE dag_id = %s", dag_id)
    live.run("DELETE FROM dag WHERE dag_id = %s", dag_id)
    reason = refusal(live, store, lambda restorer: restorer.run(dag_id, run_id))
    assert "refers to public.dag_version with id = " in reason


@pytest.mark.parametrize("table", ["public.dag_run", "public.xcom"])
def test_altered_archive_is_refused_by_restore_and_verify(
    live: Database, store: Directory, vacuum: Vacuum, table: str
) -> None:
    _, dag_id, run_id = run_of(live)
    archive = Archive(store, vacuum()["archive_id"])
    # The first batch has it: batches go from the oldest run on.
    file = next(archive.files(table))
    path = store.root / archive.path(file.path)
    path.write_bytes(path.read_bytes()[:-4] + b"PAR0")
    assert file.path in refusal(live, store, lambda restorer: restorer.run(dag_id, run_id))
    assert [problem for problem in verify.verify(archive).problems if file.path in problem]


def test_restore_and_vacuum_exclude_each_other(
    live: Database, store: Directory, vacuum: Vacuum, tmp_path: Path
) -> None:
    archive_id = vacuum()["archive_id"]
    words = [*settings(live, store, tmp_path), "--who", "bob@ctl", "restore", "--archive", archive_id]
    with session.connect(live.dsn, "x") as connection, lock.hold(connection, "vacuum by alice@ctl"):
        refused = agent(words)
    assert refused.returncode == 5
    assert "vacuum by alice@ctl" in refused.stderr
    assert agent(words).returncode == 0


def test_verified_archive_can_be_listed_shown_and_removed(store: Directory, vacuum: Vacuum) -> None:
    taken = vacuum()
    archive = Archive(store, taken["archive_id"])
    assert verify.verify(archive).problems == []
    shown = {table["name"]: table["rows"] for table in listing.show(archive)["tables"]}
    assert shown == {table["name"]: table["archived"] for table in taken["tables"] if table["archived"]}
    prune.remove(archive)
    assert list(store.root.iterdir()) == []


def test_foreign_key_that_is_newer_than_the_archive_holds_too(live: Database, store: Directory, vacuum: Vacuum) -> None:
    _, dag_id, run_id = run_of(live)
    vacuum()
    live.run("CREATE TABLE pools (name varchar(256) PRIMARY KEY)")
    live.run("ALTER TABLE task_instance ADD CONSTRAINT newer FOREIGN KEY (pool) REFERENCES pools (name) NOT VALID")
    assert "public.task_instance (pool) refers to public.pools with name = default_pool" in refusal(
        live, store, lambda restorer: restorer.run(dag_id, run_id)
    )
