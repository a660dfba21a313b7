"""Stories of one vacuum, against a real PostgreSQL 17 with Airflow's schema."""

import multiprocessing
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ops_agent.metadata import lock, session
from ops_agent.metadata.lock import HeldError
from ops_agent.metadata.places import Places
from ops_agent.metadata.shelf import manifest, verify
from ops_agent.metadata.shelf.manifest import ArchiveError
from ops_agent.metadata.shelf.store import Directory, ObjectStore
from ops_agent.metadata.take import engine, loop, move, policy
from ops_agent.metadata.take.pace import BatchSizer
from ops_agent.metadata.take.plan import Plan, Request
from ops_agent.metadata.take.policy import Policy
from tests.lab.vacuum import driver
from tests.lab.vacuum.cluster import Cluster, archived, orphans, rows, together
from tests.lab.vacuum.conftest import Vacuum
from tests.lab.vacuum.history import History, Run, Task, ago

EVERYTHING = Task(extras=frozenset({"xcom", "rendered", "map", "reschedule", "note", "hitl", "history"}))
FULL = Run(tasks=(EVERYTHING, Task()), callback="success", extras=frozenset({"note", "asset", "partition", "store"}))


PICK = "SELECT id FROM dag_run WHERE state = 'success' LIMIT 20 FOR UPDATE SKIP LOCKED"
BUSY = "UPDATE dag_run SET last_scheduling_decision = now() WHERE end_date > now() - interval '30 d'"


def runs(connection: psycopg.Connection[Any]) -> set[int]:
    return {found for (found,) in connection.execute("SELECT id FROM dag_run")}


def sessions(connection: psycopg.Connection[Any]) -> list[int]:
    """Sessions of vacuums in this test's database."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'ops-agent:%'"
    )
    return [pid for (pid,) in connection.execute(query)]


def fill(history: History, count: int = 6, **changes: Any) -> list[int]:
    """Write old runs with everything that can hang off a run, and a new one."""
    history.dag("etl")
    run = Run(**{**vars(FULL), **changes})
    old = [history.run(Run(**{**vars(run), "logical": 300 - number})) for number in range(count)]
    history.run(Run(ended=1, logical=2))
    for table, column in (("log", "dttm"), ("job", "latest_heartbeat"), ("import_error", "timestamp")):
        for days in (1, 89.9, 90.1, 400):
            history.add(table, **{column: ago(days)})
    history.add("job", latest_heartbeat=ago(400), state="running")
    history.add("session", session_id="s", data=b"\x00\xff", expiry=ago(400).replace(tzinfo=None))
    history.add("celery.celery_taskmeta", id=1, task_id="a", result=b"\\x", date_done=ago(400).replace(tzinfo=None))
    history.add("celery.celery_taskmeta", id=2, task_id="b", date_done=ago(1).replace(tzinfo=None))
    return old


def test_old_runs_with_all_that_hangs_off_them_are_moved(
    history: History, admin: psycopg.Connection[Any], vacuum: Vacuum, store: Directory
) -> None:
    old = fill(history)
    before = rows(admin)
    result = vacuum()
    assert not runs(admin) & set(old)
    assert together(rows(admin), archived(store, admin)) == before
    assert orphans(admin) == []
    assert all(table["archived"] == table["deleted"] for table in result["tables"])
    moved = {table["name"] for table in result["tables"] if table["deleted"]}
    assert moved >= {"public.callback", "public.hitl_detail_history", "public.partitioned_asset_key_log"}
    assert [archive.manifest().state for archive in manifest.archives(store)] == ["complete"]
    assert verify.verify(manifest.archives(store)[0]).problems == []
    assert admin.execute("SELECT count(*) FROM log").fetchone() == (2,)


def test_rows_of_one_instant_go_however_many_they_are(
    admin: psycopg.Connection[Any], vacuum: Vacuum, store: Directory
) -> None:
    several = BatchSizer().size * 2
    for days, count in ((200, 10), (150, several), (100, several // 3), (1, 10)):
        admin.execute("INSERT INTO log (dttm, event) SELECT %s, 'e' FROM generate_series(1, %s)", [ago(days), count])
    before = rows(admin)
    vacuum()
    assert together(rows(admin), archived(store, admin)) == before
    assert admin.execute("SELECT count(*) FROM log").fetchone() == (10,)


@pytest.mark.parametrize(
    "kept",
    [
        Run(state="running", ended=None),
        Run(state="queued", ended=None),
        Run(ended=89.9),
        Run(tasks=(Task("running"),)),
        Run(tasks=(Task("deferred"), Task())),
        Run(kind="backfill", backfill="unfinished"),
        Run(callback="running"),
    ],
    ids=["running", "queued", "young", "task running", "task deferred", "backfill", "callback"],
)
def test_run_that_is_not_over_stays_with_all_its_rows(
    kept: Run, history: History, admin: psycopg.Connection[Any], vacuum: Vacuum
) -> None:
    history.dag("etl")
    gone = history.run(FULL)
    # Later by logical date, so that the one before it is not kept for its sake.
    found = history.run(Run(**{**vars(kept), "logical": 50, "dag": "other"}))
    history.run(Run(ended=1, logical=2))
    history.run(Run(ended=1, logical=2, dag="other"))
    before = rows(admin)
    vacuum()
    assert found in runs(admin)
    assert gone not in runs(admin)
    after = rows(admin)
    of_other = {table: {row for row in texts if "other" in row} for table, texts in before.items()}
    assert all(of_other[table] <= set(after[table]) for table in of_other if of_other[table])


def test_run_before_an_unfinished_one_stays(history: History, admin: psycopg.Connection[Any], vacuum: Vacuum) -> None:
    history.dag("etl")
    first, previous = history.run(Run(logical=300)), history.run(Run(logical=200))
    history.run(Run(logical=150, state="running", ended=None))
    history.run(Run(logical=1, ended=1))
    vacuum()
    assert previous in runs(admin)
    assert first not in runs(admin)


def test_newest_runs_stay_however_old(history: History, admin: psycopg.Connection[Any], vacuum: Vacuum) -> None:
    history.dag("etl")
    found = [history.run(Run(ended=500 - number, logical=501 - number, dag="etl")) for number in range(5)]
    triggered = [
        history.run(Run(ended=500 - number, logical=None, kind="manual", dag="by_hand")) for number in range(3)
    ]
    vacuum(policy=Policy(timedelta(days=90), keep_last=2))
    assert runs(admin) == {*found[-2:], *triggered[-2:]}


def test_policy_decides_by_dag_tag_and_state(history: History, admin: psycopg.Connection[Any], vacuum: Vacuum) -> None:
    kept = []
    for dag in ("etl", "finance", "audited"):
        history.dag(dag)
        failed = history.run(Run(dag=dag, logical=300, state="failed"))
        succeeded = history.run(Run(dag=dag, logical=200))
        kept.append(history.run(Run(dag=dag, logical=2, ended=1)))
        kept += {"etl": [failed], "finance": [failed, succeeded], "audited": [failed, succeeded]}[dag]
    history.add("dag_tag", dag_id="audited", name="audit")
    document = {
        "retention": "30d",
        "dags": [
            {"dag": "fin*", "retention": "never"},
            {"tag": "audit", "retention": "200d"},
            {"state": "failed", "retention": "300d"},
        ],
    }
    vacuum(policy=policy.parse(document, []))
    assert runs(admin) == set(kept)


def test_unknown_child_table_is_refused_by_name(
    history: History, admin: psycopg.Connection[Any], vacuum: Vacuum, store: Directory
) -> None:
    fill(history)
    admin.execute("CREATE TABLE task_mood (ti_id uuid REFERENCES task_instance (id), mood text)")
    before = rows(admin)
    with pytest.raises(ArchiveError, match=r"public\.task_mood refers to public\.task_instance"):
        vacuum()
    assert rows(admin) == before
    assert manifest.archives(store) == []


def test_child_table_that_appears_meanwhile_is_refused(
    history: History, admin: psycopg.Connection[Any], vacuum: Vacuum, monkeypatch: pytest.MonkeyPatch, store: Directory
) -> None:
    fill(history)
    before = rows(admin)
    prove = move.Mover.move

    def migrate(mover: Any, piece: Any) -> Any:
        admin.execute("CREATE TABLE IF NOT EXISTS task_mood (ti_id uuid REFERENCES task_instance (id), mood text)")
        return prove(mover, piece)

    monkeypatch.setattr(move.Mover, "move", migrate)
    with pytest.raises(ArchiveError, match="schema of the database changed"):
        vacuum()
    assert together(rows(admin), archived(store, admin)) == before


def test_run_that_is_cleared_after_it_was_found_stays(
    history: History, admin: psycopg.Connection[Any], vacuum: Vacuum, monkeypatch: pytest.MonkeyPatch, store: Directory
) -> None:
    old = fill(history)
    before = rows(admin)
    monkeypatch.setattr(loop, "BatchSizer", lambda **_: engine_length(1))
    prove = move.Mover.move

    def clear(mover: Any, piece: Any) -> Any:
        if str(old[2]) in piece.roots:
            admin.execute("UPDATE dag_run SET state = 'queued' WHERE id = %s", [old[2]])
        if str(old[4]) in piece.roots:
            admin.execute("UPDATE task_instance SET state = 'scheduled' WHERE run_id = 'run_0005'")
        return prove(mover, piece)

    monkeypatch.setattr(move.Mover, "move", clear)
    vacuum(tables=("public.dag_run",))
    assert {old[2], old[4]} <= runs(admin)
    assert old[0] not in runs(admin)
    kept = rows(admin)
    held = archived(store, admin)
    assert not any(kept[table] & held.get(table, {}) for table in kept if table in held)
    assert sum(map(Counter.total, together(kept, held).values())) == sum(map(Counter.total, before.values()))
    assert orphans(admin) == []


def test_row_that_is_written_while_its_run_is_moved_goes_with_it_or_is_refused(
    cluster: Cluster,
    database: str,
    history: History,
    admin: psycopg.Connection[Any],
    vacuum: Vacuum,
    monkeypatch: pytest.MonkeyPatch,
    store: Directory,
) -> None:
    """One comes to a table that was empty when the vacuum began, one after the run was locked."""
    history.dag("etl")
    old = [history.run(Run(logical=300 - number)) for number in range(4)]
    history.run(Run(ended=1, logical=2))
    refused = []
    keep = move.Mover._keep_roots

    def write(mover: Any, piece: Any) -> None:
        if move.Mover._keep_roots is write and not refused:
            (task,) = admin.execute("SELECT id FROM task_instance WHERE run_id = 'run_0001'").fetchone() or (None,)
            history.add("task_instance_note", ti_id=task, content="late")
        keep(mover, piece)
        if not refused:
            with cluster.connect(database) as other:
                other.execute("SET lock_timeout = '20ms'")
                try:
                    History(other).add("dag_run_note", dag_run_id=old[0], content="later")
                except psycopg.errors.LockNotAvailable as error:
                    refused.append(error)

    monkeypatch.setattr(move.Mover, "_keep_roots", write)
    vacuum(tables=("public.dag_run",))
    assert len(refused) == 1
    assert not runs(admin) & set(old)
    assert sum(archived(store, admin)["public.task_instance_note"].values()) == 1
    assert orphans(admin) == []


def engine_length(size: int) -> Any:
    return BatchSizer(size=size, largest=size, smallest=size)


def test_row_that_somebody_holds_is_left_and_nobody_waits_for_the_vacuum(
    cluster: Cluster, database: str, history: History, admin: psycopg.Connection[Any], vacuum: Vacuum, store: Directory
) -> None:
    old = fill(history)
    before = rows(admin)
    with cluster.connect(database) as other:
        with other.transaction():
            other.execute("SELECT 1 FROM dag_run WHERE id = %s FOR UPDATE", [old[0]])
            result = vacuum()
        assert result["skipped"] >= 1
    assert old[0] in runs(admin)
    assert together(rows(admin), archived(store, admin)) == before


def test_one_vacuum_at_a_time_and_its_holder_is_named(
    cluster: Cluster, database: str, history: History, vacuum: Vacuum
) -> None:
    fill(history)
    with (
        session.connect(cluster.dsn(database), "deletes") as first,
        lock.hold(first, "vacuum by ada@control"),
        pytest.raises(HeldError, match="vacuum by ada@control"),
    ):
        vacuum()
    assert vacuum()["archive_id"]


def test_plan_counts_and_changes_nothing(
    cluster: Cluster, database: str, history: History, admin: psycopg.Connection[Any], vacuum: Vacuum, store: Directory
) -> None:
    fill(history)
    before = rows(admin)
    request = Request(Policy(timedelta(days=90)), "a test")
    plan = engine.Vacuum(cluster.dsn(database), store, request, lambda _: None).plan()
    assert rows(admin) == before
    assert manifest.archives(store) == []
    result = vacuum()
    planned = {table["name"]: table["rows"] for table in plan["tables"] if table["rows"]}
    # Asset events are free once the runs that consumed them are gone: the plan cannot see that yet.
    assert planned == {
        table["name"]: table["deleted"]
        for table in result["tables"]
        if table["deleted"] and table["name"] != "public.asset_event"
    }


def test_out_of_time_stops_early_and_the_next_one_goes_on(
    history: History, admin: psycopg.Connection[Any], vacuum: Vacuum, store: Directory
) -> None:
    fill(history)
    before = rows(admin)
    assert vacuum(max_seconds=0)["stopped_early"]
    assert rows(admin) == before
    assert not vacuum()["stopped_early"]
    assert together(rows(admin), archived(store, admin)) == before


def test_without_archive_rows_are_just_deleted(
    cluster: Cluster, database: str, history: History, admin: psycopg.Connection[Any]
) -> None:
    old = fill(history)
    request = Request(Policy(timedelta(days=90)), "a test", gentle=False)
    result = engine.Vacuum(cluster.dsn(database), None, request, lambda _: None).run()
    assert not runs(admin) & set(old)
    assert result["archive_id"] is None
    assert orphans(admin) == []


def test_object_store_holds_the_same(
    cluster: Cluster, database: str, history: History, admin: psycopg.Connection[Any]
) -> None:
    fill(history)
    before = rows(admin)
    store = ObjectStore(f"memory://{database}/archives")
    request = Request(Policy(timedelta(days=90)), "a test", gentle=False)
    engine.Vacuum(cluster.dsn(database), store, request, lambda _: None).run()
    assert together(rows(admin), archived(store, admin)) == before


def test_file_that_is_not_what_was_written_deletes_nothing(
    history: History, admin: psycopg.Connection[Any], vacuum: Vacuum, monkeypatch: pytest.MonkeyPatch, store: Directory
) -> None:
    fill(history)
    before = rows(admin)
    read = Directory.read
    monkeypatch.setattr(
        Directory, "read", lambda self, path: read(self, path)[:-9] if path.endswith("parquet") else read(self, path)
    )
    with pytest.raises(ArchiveError, match="cannot be read back"):
        vacuum()
    monkeypatch.undo()
    assert rows(admin) == before
    assert vacuum()["resumed"] is False
    assert together(rows(admin), archived(store, admin)) == before


def test_scheduler_that_works_on_the_same_tables_never_waits_long(
    cluster: Cluster, database: str, history: History, admin: psycopg.Connection[Any], vacuum: Vacuum
) -> None:
    fill(history, count=60)
    stop, slowest, failures = threading.Event(), [0.0], []

    def schedule() -> None:
        with cluster.connect(database) as session:
            session.execute("SET lock_timeout = '2s'")
            while not stop.is_set():
                started = time.monotonic()
                try:
                    with session.transaction():
                        session.execute(PICK)
                        session.execute(BUSY)
                except psycopg.Error as error:
                    failures.append(error)
                slowest[0] = max(slowest[0], time.monotonic() - started)

    thread = threading.Thread(target=schedule)
    thread.start()
    try:
        vacuum()
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert slowest[0] < 2
    assert orphans(admin) == []


def test_dag_that_is_being_deleted_loses_no_row_of_another(
    cluster: Cluster,
    database: str,
    history: History,
    admin: psycopg.Connection[Any],
    store: Directory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(history, count=30)
    history.dag("leaving")
    leaving = [history.run(Run(**{**vars(FULL), "dag": "leaving", "logical": 300 - number})) for number in range(30)]
    before = rows(admin)

    def leave() -> None:
        # As Airflow does it: with its foreign keys, and in no order that the engine knows.
        with cluster.connect(database) as session:
            for run in reversed(leaving):
                session.execute("DELETE FROM xcom WHERE dag_run_id = %s", [run])
                session.execute("DELETE FROM dag_run WHERE id = %s", [run])

    thread = threading.Thread(target=leave)
    request = Request(Policy(timedelta(days=90)), "a test", gentle=False)
    vacuum = engine.Vacuum(cluster.dsn(database), store, request, lambda _: None)
    stock = Plan.fill

    def fill_then_leave(plan: Plan, reader: Any) -> Any:
        filled = stock(plan, reader)
        thread.start()
        return filled

    monkeypatch.setattr(Plan, "fill", fill_then_leave)
    vacuum.run()
    thread.join()
    after, held = rows(admin), archived(store, admin)
    assert orphans(admin) == []
    assert not any(after[table] & held[table] for table in after if table in held)
    for table, texts in together(after, held).items():
        assert texts <= before[table]
        assert {text for text in before[table] if "etl" in text} <= set(texts)


def test_backfill_that_begins_meanwhile_keeps_its_runs_or_is_refused_them(
    cluster: Cluster,
    database: str,
    history: History,
    admin: psycopg.Connection[Any],
    store: Directory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = fill(history, count=60)
    monkeypatch.setattr(loop, "BatchSizer", lambda **_: engine_length(10))
    before = rows(admin)
    stop = threading.Event()
    joined: list[int] = []
    refused: list[psycopg.Error] = []

    def backfill() -> None:
        # As Airflow does it: a backfill of its own, and runs that are there already become part of it.
        with cluster.connect(database) as session:
            writer = History(session)
            number = writer.add("backfill", dag_id="etl", completed_at=None)
            # From both ends, so that some are gone and some are not.
            for run in (run for pair in zip(old, reversed(old), strict=True) for run in pair):
                if stop.is_set() or run in joined:
                    continue
                try:
                    writer.add("backfill_dag_run", backfill_id=number, dag_run_id=run, sort_ordinal=run)
                    joined.append(run)
                except psycopg.errors.ForeignKeyViolation as error:
                    refused.append(error)

    request = Request(Policy(timedelta(days=90)), "a test", tables=("public.dag_run",), gentle=False)
    thread = threading.Thread(target=backfill)

    def begin(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and not thread.ident:
            thread.start()

    vacuum = engine.Vacuum(cluster.dsn(database), store, request, begin)
    vacuum.run()
    stop.set()
    thread.join()
    assert joined
    assert refused
    assert set(joined) <= runs(admin)
    assert len(runs(admin)) < len(old)
    assert orphans(admin) == []
    after = together(rows(admin), archived(store, admin))
    assert all(texts <= after[table] for table, texts in before.items())


def test_full_disk_loses_nothing(
    cluster: Cluster, database: str, history: History, admin: psycopg.Connection[Any], tmp_path: Path
) -> None:
    fill(history, count=40)
    before = rows(admin)
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(volume)], check=True)
    try:
        store = Directory(volume)
        request = Request(Policy(timedelta(days=90)), "a test", gentle=False)
        with pytest.raises(OSError, match="No space left"):
            engine.Vacuum(cluster.dsn(database), store, request, lambda _: None).run()
        subprocess.run(["mount", "-o", "remount,size=20m", str(volume)], check=True)
        engine.Vacuum(cluster.dsn(database), store, request, lambda _: None).run()
        assert together(rows(admin), archived(store, admin)) == before
    finally:
        subprocess.run(["umount", str(volume)], check=True)


def test_kill_at_any_step_loses_nothing_and_leaves_nothing_twice(
    cluster: Cluster,
    database: str,
    history: History,
    admin: psycopg.Connection[Any],
    vacuum: Vacuum,
    store: Directory,
    wait_until: Callable[..., Any],
) -> None:
    """After each kill the next vacuum goes on; every row is in one place, at every step there is."""
    history.dag("etl")
    history.run(Run(ended=1, logical=2))
    fork = multiprocessing.get_context("fork")
    for step in range(1, 200):
        for number in range(2):
            history.run(Run(logical=1000 + 2 * step + number, tasks=(Task(extras=frozenset({"xcom"})),)))
        history.add("log", dttm=ago(500), extra=str(step))
        before = rows(admin)
        child = fork.Process(target=driver.run, args=(cluster.dsn(database), store.root, step))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL, f"step {step}"
        # The server finds out some time later; until then its sessions hold the lock.
        wait_until(lambda: sessions(admin) == [], deadline=30, what="the server to end the sessions of the killed one")
        kept = rows(admin)
        assert all(kept.get(table, Counter()) <= before[table] for table in kept)
        vacuum()
        assert together(rows(admin), archived(store, admin)) == before, f"killed at step {step}"
        assert all(archive.manifest().state != "running" for archive in manifest.archives(store))
        shutil.rmtree(store.root)
    assert step > 30


def test_vacuum_that_was_killed_over_another_store_is_settled_there(
    cluster: Cluster, database: str, history: History, admin: psycopg.Connection[Any], store: Directory, tmp_path: Path
) -> None:
    """Its committed batch may be of rows that are nowhere else any more; a place that is out of reach is named."""
    fill(history)
    before = rows(admin)
    known = Places(tmp_path)
    elsewhere = Directory(tmp_path / "elsewhere")
    known.remember(elsewhere.url)
    known.remember("s3+nothing://bucket")
    child = multiprocessing.get_context("fork").Process(
        target=driver.run, args=(cluster.dsn(database), elsewhere.root, 30)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    request = Request(Policy(timedelta(days=90)), "a test", gentle=False)
    planned = engine.Vacuum(cluster.dsn(database), store, request, lambda _: None, known).plan()
    (left,) = manifest.archives(elsewhere)
    assert planned["unsettled"] == [left.archive_id]
    result = engine.Vacuum(cluster.dsn(database), store, request, lambda _: None, known).run()
    assert left.manifest().state == "closed"
    assert together(rows(admin), archived(store, admin), archived(elsewhere, admin)) == before
    assert (result["resumed"], result["unsettled"]) == (True, ["s3+nothing://bucket"])
    assert known.known() == ["s3+nothing://bucket"]


def test_vacuum_typed_at_once_after_a_kill_waits_for_the_dead_one_to_let_go(
    cluster: Cluster, database: str, history: History, vacuum: Vacuum
) -> None:
    """The dead one was in the middle of a long statement, in which the server does not look at its socket by itself."""
    fill(history)
    reading, writing = multiprocessing.get_context("fork").Pipe(duplex=False)

    def hold() -> None:
        with session.connect(cluster.dsn(database), "deletes") as connection, lock.hold(connection, "vacuum by ada"):
            writing.send("held")
            connection.execute("SELECT pg_sleep(600)")

    child = multiprocessing.get_context("fork").Process(target=hold)
    child.start()
    assert reading.recv() == "held"
    child.kill()
    child.join()
    assert vacuum()["archive_id"]


def test_postgres_that_dies_in_the_middle_loses_nothing(
    cluster: Cluster, database: str, history: History, vacuum: Vacuum, monkeypatch: pytest.MonkeyPatch, store: Directory
) -> None:
    fill(history)
    with cluster.connect(database) as connection:
        before = rows(connection)
    finish = move._Files.finish
    monkeypatch.setattr(loop, "BatchSizer", lambda **_: engine_length(1))
    finished = 0

    def crash(files: Any, family: str, roots: int) -> Any:
        nonlocal finished
        found = finish(files, family, roots)
        finished += 1
        if finished == 3:
            cluster.crash()
        return found

    monkeypatch.setattr(move._Files, "finish", crash)
    with pytest.raises(psycopg.OperationalError):
        vacuum()
    monkeypatch.undo()
    assert vacuum()["resumed"]
    with cluster.connect(database) as connection:
        assert together(rows(connection), archived(store, connection)) == before
        assert orphans(connection) == []
