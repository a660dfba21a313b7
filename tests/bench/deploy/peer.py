"""Ours against files that are replaced in place under Airflow's stock LocalDagBundle, each on an Airflow of its own.

Both have the same files, machine, database and settings but for the bundle and the dag-processor. Measured is the time
from the change to all changed DAGs in the database, and how many runs in flight executed code of both versions.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.deploy import trees
from tests.lab.release import scratch

if TYPE_CHECKING:
    from collections.abc import Callable

    from testinfra.host import Host

# As many as its Airflow runs tasks at a time: each holds one until the change is there.
RUNS = 4
DEADLINE_SECONDS = 900
IN_FLIGHT = """
import os, time
from airflow.sdk import dag, task
VERSION = "{version}"

def note(context, name):
    with open(f"{home}/out/{{context['dag'].dag_id}}.{{context['run_id']}}", "a") as out:
        print(VERSION, file=out)

@dag(schedule=None)
def in_flight():
    @task
    def first(**context):
        note(context, "first")
        while not os.path.exists("{home}/out/go"):
            time.sleep(0.5)

    @task
    def second(**context):
        note(context, "second")

    first() >> second()

in_flight()
"""


@dataclass(frozen=True)
class Outcome:
    """Seconds until the changed DAGs were seen, and runs that executed two versions, of RUNS."""

    visible_seconds: float
    mixed_runs: int


class Stock(scratch.Scratch):
    """Airflow as it comes: files in one directory, the stock dag-processor and its default intervals."""

    def install(self) -> None:
        super().install()
        bundle = {
            "name": "fleet",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": f"{self.home}/dags"},
        }
        lines = [
            "mkdir -p dags",
            f"export AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST='{json.dumps([bundle])}'",
            "unset AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL",
            "unset AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL AIRFLOW__DAG_PROCESSOR__STALE_DAG_THRESHOLD",
            "unset AIRFLOW__DAG_PROCESSOR__PARSING_CLEANUP_INTERVAL",
        ]
        self.shell(f"cat >>env <<'END'\n{chr(10).join(lines)}\nEND")

    def run(self, service: str) -> None:
        if service != "dag-processor":
            super().run(service)
            return
        self.shell(
            "setsid sh -c 'echo $$ >dag-processor.pid; exec nice -n 5 airflow dag-processor' "
            ">log/dag-processor.log 2>&1 </dev/null &"
        )

    def bring(self, files: dict[str, str]) -> float:
        """Replace files in place, as rsync does; return when, by this machine's clock."""
        self.put("new", files)
        started = time.monotonic()
        self.shell("cp -r new/. dags/ && rm -r new")
        return started


class Ours(scratch.Scratch):
    """Airflow with releases."""

    def __init__(self, host: Host, database: Host) -> None:
        super().__init__(host, database)
        self.files: dict[str, str] = {}

    def bring(self, files: dict[str, str]) -> float:
        """Make a release and serve it; return when it was flipped."""
        self.files |= files
        release = self.publish("bench", self.files, judged=True)
        self.agent("warm", release)
        started = time.monotonic()
        self.agent("flip", release)
        self.agent("refresh")
        return started


def compare(host: Host, database: Host) -> dict[str, Outcome]:
    """Measure both, one after the other."""
    found = {}
    for name, airflow in (("stock", Stock(host, database)), ("ours", Ours(host, database))):
        print(f"side by side: {name}", file=sys.stderr)
        try:
            airflow.start()
            found[name] = _measure(airflow)
        finally:
            airflow.stop()
    return found


def _measure(airflow: Stock | Ours) -> Outcome:
    files = {f"bench_{number:03}.py": trees.text(number, "base") for number in range(trees.FILES)}
    airflow.bring(files | {"in_flight.py": IN_FLIGHT.format(home=airflow.home, version="old")})
    # Stock looks for new files every five minutes; what is measured is a change of known ones.
    airflow.kill("dag-processor")
    airflow.run("dag-processor")
    _until("DAGs", trees.FILES + 1, lambda: int(airflow.ask("SELECT count(*) FROM dag")[0]))
    for number in range(RUNS):
        airflow.trigger("in_flight", f"run{number}")
    _until("runs that have begun", RUNS, lambda: sum(len(airflow.told("in_flight", f"run{n}")) for n in range(RUNS)))
    changed = {f"bench_{number:03}.py": trees.text(number, "new") for number in range(trees.CHANGED)}
    started = airflow.bring(changed | {"in_flight.py": IN_FLIGHT.format(home=airflow.home, version="new")})
    seen = "SELECT count(*) FROM dag_tag WHERE name = 'new'"
    _until("changed DAGs", trees.CHANGED, lambda: int(airflow.ask(seen)[0]))
    visible = time.monotonic() - started
    airflow.shell("touch out/go")
    over = "SELECT count(*) FROM dag_run WHERE state IN ('success', 'failed')"
    _until("runs that are over", RUNS, lambda: int(airflow.ask(over)[0]))
    mixed = sum(len(set(airflow.told("in_flight", f"run{number}"))) > 1 for number in range(RUNS))
    return Outcome(visible, mixed)


def _until(what: str, count: int, seen: Callable[[], int]) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while seen() < count:
        if time.monotonic() > end:
            sys.exit(f"side by side: not {count} {what} within {DEADLINE_SECONDS} s")
        time.sleep(0.2)
