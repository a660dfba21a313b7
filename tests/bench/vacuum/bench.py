"""`ops vacuum` beside `airflow db clean` and `airflow db export-archived`, on copies of one database, in one run.

    python -m tests.bench.vacuum.bench [--task-instances 300000]

Needs the lab: the databases are in a PostgreSQL cluster of their own on pg1, with the lab's settings, and Airflow's
commands run on sched1. Nothing else may run on the machine meanwhile. What Airflow's commands take to start is taken
off their time, and off ours VACUUM (ANALYZE) afterwards, which theirs leave to autovacuum.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from ops_agent.archive import session
from ops_agent.archive.manifest import archives
from ops_agent.archive.restore import Restorer, Source
from ops_agent.archive.store import Directory
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
        Figure("restore", ours["restored_per_s"], "task instances/s", 20_000, at_least=True),
        Figure("VACUUM (ANALYZE) afterwards", ours["maintained_s"], "s", float("inf")),
        Figure("time a row", 1e6 / ours["rows_per_s"], "µs", float("inf")),
    ]
    if not ours_alone:
        theirs = their_clean(cluster, before)
        print(json.dumps(theirs), file=sys.stderr)
        figures += [
            Figure("rows/s, to theirs", ours["rows_per_s"] / theirs["rows_per_s"], "times", 8, at_least=True),
            Figure("archive's bytes, to their CSV's", ours["archive_bytes"] / theirs["bytes"], "times", 0.1),
        ]
    print(json.dumps(ours), file=sys.stderr)
    return report(figures)


def our_vacuum(cluster: Cluster, before: dict[str, int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="vacuum-") as directory:
        copy(cluster, "ours")
        store = Directory(Path(directory) / "archives")
        started = time.monotonic()
        result = one(cluster.dsn("ours"), store)
        seconds = time.monotonic() - started
        with cluster.connect("ours") as connection:
            after = count(connection)
        gone = sum(before.values()) - sum(after.values())
        result |= {"seconds": seconds, "rows": gone, "rows_per_s": gone / (seconds - result["maintained_s"])}
        result["archive_bytes"] = sum(table["bytes"] for table in result["tables"])
        result["restored_per_s"] = restore(cluster, store)
        copy(cluster, "watched")
        result["loop_ratio"] = loop_ratio(cluster, Directory(Path(directory) / "watched"))
        return result


def one(dsn: str, store: Directory) -> dict[str, Any]:
    words = [sys.executable, "-m", "tests.bench.vacuum.one", dsn, str(store.root)]
    found: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


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


def loop_ratio(cluster: Cluster, store: Directory) -> float:
    alone = loop(cluster, 15)
    # Its standard input stays open, or it would stop at once.
    alone.wait()
    usual = alone.stdout.read() if alone.stdout else ""
    watched = loop(cluster, 3600)
    one(cluster.dsn("watched"), store)
    meanwhile, _ = watched.communicate("\n")
    print(f"p99 in ms and loops: usually {usual.strip()}, meanwhile {meanwhile.strip()}", file=sys.stderr)
    return float(meanwhile.split()[0]) / float(usual.split()[0])


def loop(cluster: Cluster, seconds: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.bench.vacuum.loop", cluster.dsn("watched", "postgres"), str(seconds)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


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
            "$airflow db check",
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
    # The first start reads Airflow from the disk; the second is like those that follow.
    _, start, clean, export = took
    seconds = clean + export - 2 * start
    return {
        "start_s": start, "clean_s": clean, "export_s": export, "rows": gone, "rows_per_s": gone / seconds,
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
