"""`ops vacuum` beside `airflow db clean` and `airflow db export-archived`, on copies of one database, in one run.

    python -m tests.bench.vacuum.bench [--task-instances 300000]

Needs the lab: the databases are in a PostgreSQL cluster of their own on pg1, with the lab's settings, and Airflow's
commands run on sched1. Nothing else may run on the machine meanwhile. Time is from a command's start to its end; off
ours goes VACUUM (ANALYZE) afterwards, which theirs leave to autovacuum. Two figures say what the machine allows: how
many rows a second go without an archive, and the scheduler's loop beside one process that computes, without a database.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from ops_agent.metadata import session
from ops_agent.metadata.put_back.restore import Restorer, Source
from ops_agent.metadata.shelf.manifest import archives
from ops_agent.metadata.shelf.store import Directory
from tests.bench.report import Figure, report
from tests.bench.vacuum import generator
from tests.lab.vacuum.cluster import Cluster

_SSH_DIRECTORY = Path("/var/lib/airfleet/lab/ssh")
_SCHEDULER = [
    *("ssh", "-i", str(_SSH_DIRECTORY / "id_ed25519"), "-o", f"UserKnownHostsFile={_SSH_DIRECTORY / 'known_hosts'}"),
    *("-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "fleet@10.77.0.31", "sudo bash -s"),
]
_RUNNING = """
INSERT INTO dag_run (dag_id, run_id, run_type, state, run_after, logical_date, clear_number, span_status)
SELECT 'pipeline_' || g, 'now', 'scheduled', 'running', now(), now(), 0, 'not_started' FROM generate_series(0, 19) AS g
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task-instances", type=int, default=300_000)
    parser.add_argument("--ours-alone", action="store_true", help="leave out Airflow's commands")
    arguments = parser.parse_args()
    cluster = Cluster(durable=True)
    try:
        return measure(cluster, arguments.task_instances, ours_alone=arguments.ours_alone)
    finally:
        cluster.close()


def measure(cluster: Cluster, size: int, *, ours_alone: bool) -> int:
    cluster.fresh("base")
    with cluster.connect("base") as connection:
        generator.fill(connection, size)
        connection.execute(_RUNNING)
        connection.execute("VACUUM (FREEZE, ANALYZE)")
        before = count(connection)
    print(f"{size} task instances, {sum(before.values())} rows", file=sys.stderr)
    ours = our_vacuum(cluster, before)
    figures = [
        Figure("transactions, p99", ours["p99_transaction_s"], "s", 0.25),
        Figure("memory of the engine", ours["peak_mb"], "MB", 300),
        Figure("p99 of a scheduler's loop meanwhile, to usual", ours["loop_ratio"], "times", 1.2),
        Figure("the same beside one process that only computes", ours["busy_ratio"], "times", float("inf")),
        Figure("restore", ours["restored_per_s"], "task instances/s", 20_000, at_least=True),
        Figure("VACUUM (ANALYZE) afterwards", ours["maintained_s"], "s", float("inf")),
        Figure("time a row", 1e6 / ours["rows_per_s"], "µs", float("inf")),
    ]
    if not ours_alone:
        theirs = their_clean(cluster, before)
        print(json.dumps(theirs), file=sys.stderr)
        rows_per_s = theirs["rows_per_s"]
        figures += [
            Figure("rows/s, to theirs", ours["rows_per_s"] / rows_per_s, "times", 8, at_least=True),
            Figure("without an archive, to theirs with one", ours["deleted_per_s"] / rows_per_s, "times", float("inf")),
            Figure("archive's bytes, to their CSV's", ours["archive_bytes"] / theirs["bytes"], "times", 0.1),
        ]
    print(json.dumps(ours), file=sys.stderr)
    return report(figures)


def our_vacuum(cluster: Cluster, before: dict[str, int]) -> dict[str, Any]:
    copy(cluster, "bare")
    deleted_per_s = one(cluster, "bare", None, before)["rows_per_s"]
    cluster.admin("postgres", "DROP DATABASE bare")
    with tempfile.TemporaryDirectory(prefix="vacuum-") as directory:
        copy(cluster, "ours")
        store = Directory(Path(directory) / "archives")
        result = one(cluster, "ours", store, before)
        result["deleted_per_s"] = deleted_per_s
        result["archive_bytes"] = sum(table["bytes"] for table in result["tables"])
        result["restored_per_s"] = restore(cluster, store)
        copy(cluster, "watched")
        watched = Directory(Path(directory) / "watched")
        usual = loop_p99(cluster, lambda: time.sleep(15))
        result["busy_ratio"] = loop_p99(cluster, lambda: compute(15)) / usual
        result["loop_ratio"] = loop_p99(cluster, lambda: one(cluster, "watched", watched, before)) / usual
        return result


def one(cluster: Cluster, database: str, store: Directory | None, before: dict[str, int]) -> dict[str, Any]:
    """Vacuum a copy, by a process of its own; `before` are its rows by table."""
    words = [
        sys.executable,
        "-m",
        "tests.bench.vacuum.one",
        cluster.dsn(database),
        *([str(store.root)] if store else []),
    ]
    started = time.monotonic()
    found: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    seconds = time.monotonic() - started
    with cluster.connect(database) as connection:
        gone = sum(before.values()) - sum(count(connection).values())
    return found | {"seconds": seconds, "rows": gone, "rows_per_s": gone / (seconds - found["maintained_s"])}


def restore(cluster: Cluster, store: Directory) -> float:
    source = Source.read(archives(store)[0])
    # As `ops-agent archive restore` does.
    with (
        session.connect(cluster.dsn("ours"), "the benchmark") as connection,
        session.connect(cluster.dsn("ours"), "the benchmark") as first,
        session.connect(cluster.dsn("ours"), "the benchmark") as second,
    ):
        restorer = Restorer(connection, [source], lambda _: None, writers=(first, second))
        started = time.monotonic()
        restorer.archive(source)
        seconds = time.monotonic() - started
    return restorer.outcome.rows["public.task_instance"] / seconds


def loop_p99(cluster: Cluster, meanwhile: Callable[[], Any]) -> float:
    """Return the p99 in ms of what a scheduler does over and over, as long as something else is done."""
    words = [sys.executable, "-m", "tests.bench.vacuum.loop", cluster.dsn("watched", "postgres")]
    loop = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    meanwhile()
    said, _ = loop.communicate()
    print(f"p99 in ms and loops: {said.strip()}", file=sys.stderr)
    return float(said.split()[0])


def compute(seconds: float) -> None:
    code = f"import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: sum(range(1000))"
    subprocess.run([sys.executable, "-c", code], check=True)


def their_clean(cluster: Cluster, before: dict[str, int]) -> dict[str, Any]:
    copy(cluster, "theirs")
    url = f"postgresql+psycopg2://postgres@{cluster.dsn('theirs').split()[0].removeprefix('host=')}"
    port = cluster.dsn("theirs").split()[1].removeprefix("port=")
    environment = (
        "export AIRFLOW_HOME=/var/tmp/vacuum-bench AIRFLOW__CORE__LOAD_EXAMPLES=False"
        f" AIRFLOW__DATABASE__SQL_ALCHEMY_CONN={url}:{port}/theirs\n"
        "mkdir -p $AIRFLOW_HOME/csv; cd $AIRFLOW_HOME; airflow=/opt/airflow/current/bin/airflow\n"
    )
    until = (datetime.now(UTC) - timedelta(days=90)).isoformat()
    took = [
        on_scheduler(
            environment + words + " >/dev/null 2>$AIRFLOW_HOME/log || { tail -5 $AIRFLOW_HOME/log >&2; exit 1; }"
        )
        for words in (
            # The first start reads Airflow from the disk.
            "$airflow db check",
            f"$airflow db clean --clean-before-timestamp {until} --yes",
            "$airflow db export-archived --export-format csv --output-path csv --yes",
        )
    ]
    with cluster.connect("theirs") as connection:
        gone = sum(before.values()) - sum(count(connection).values())
    size = subprocess.run(
        _SCHEDULER, input="du -sb /var/tmp/vacuum-bench/csv | cut -f1; rm -rf /var/tmp/vacuum-bench", check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    _, clean, export = took
    return {
        "clean_s": clean, "export_s": export, "rows": gone, "rows_per_s": gone / (clean + export),
        "bytes": int(size.stdout),
    }  # fmt: skip


def on_scheduler(script: str) -> float:
    started = time.monotonic()
    subprocess.run(_SCHEDULER, input=script, check=True, text=True)
    return time.monotonic() - started


def copy(cluster: Cluster, database: str) -> None:
    cluster.admin("postgres", f"CREATE DATABASE {database} TEMPLATE base")
    cluster.admin("postgres", "CHECKPOINT")


def count(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Rows by table, of Airflow's own tables alone."""
    tables = connection.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE '\\_airflow\\_deleted%'"
    ).fetchall()
    return {
        table: connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]  # type: ignore[arg-type, index]
        for (table,) in tables
    }


if __name__ == "__main__":
    sys.exit(main())
