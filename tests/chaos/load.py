"""A steady load of DAG runs with short and 60 s tasks on every pool, and the count of what became of each of them."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import requests

from tests.chaos.lab import ADDRESS, INVENTORY, WORKERS, Database, shell, until
from tests.lab.signing import sign

if TYPE_CHECKING:
    from collections.abc import Iterator

DAGS = ("chaos_short", "chaos_long", "chaos_probe", "chaos_bulk")
SOURCE = Path(__file__).with_name("load_dags.py")
PUBLISHER = INVENTORY.tier("scheduler")[0].name
PASSWORD = Path("/var/lib/airfleet/lab/secrets/airflow_admin")
MARKERS = "/var/lib/airflow/chaos.markers"
SHORT_EVERY_SECONDS = 8
# Longer than they take, so that each pool keeps a slot for the others.
LONG_EVERY_SECONDS = 65
# What serves, but for what stories that were killed have left.
SERVED = """
python3 - <<'END'
import json, pathlib
release = pathlib.Path("/srv/airflow/dags/current").resolve()
while (manifest := json.loads((release / "manifest.json").read_text()))["author"] == "tests":
    release = release.with_name(manifest["parent"])
print(release.name)
END
"""
SERVE = """
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -a /srv/airflow/dags/current/dags/. "$work"
echo {text} | base64 -d >"$work/{name}"
ops-agent release publish --tree "$work" --author tests --message 'the load of the failure stories'
"""


class Api:
    """Airflow's public API through the balancer."""

    def __init__(self) -> None:
        self.base = f"http://{ADDRESS[INVENTORY.tier('lb')[0].name]}:8080"
        self.http = requests.Session()

    def call(self, method: str, path: str, **words: Any) -> Any:
        """Call and return the JSON answer. Raises requests.HTTPError for a status of 400 or more."""
        url = f"{self.base}/api/v2{path}"
        answer = self.http.request(method, url, timeout=10, **words)
        if answer.status_code == requests.codes.unauthorized:
            self._log_in()
            answer = self.http.request(method, url, timeout=10, **words)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def trigger(self, dag: str) -> str:
        """Start a run and return its id."""
        return str(self.call("POST", f"/dags/{dag}/dagRuns", json={"logical_date": None})["dag_run_id"])

    def _log_in(self) -> None:
        login = {"username": "admin", "password": PASSWORD.read_text().strip()}
        answer = self.http.post(f"{self.base}/auth/token", json=login, timeout=10)
        answer.raise_for_status()
        self.http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def publish(api: Api, database: Database) -> str:
    """Serve the load's DAGs beside those of the current release, once Airflow knows them; return that release."""
    before = shell(PUBLISHER, SERVED)
    text = base64.b64encode(SOURCE.read_bytes()).decode()
    made = json.loads(shell(PUBLISHER, SERVE.format(text=text, name=SOURCE.name), timeout=120))["release"]
    sign(partial(shell, PUBLISHER), made)
    shell(PUBLISHER, f"ops-agent release flip {made} && ops-agent release refresh", timeout=120)
    names = ", ".join(f"'{dag}'" for dag in DAGS)
    known = f"SELECT count(*) FROM dag WHERE dag_id IN ({names}) AND NOT is_stale"
    until(lambda: database.value(known) == len(DAGS), 180, "the load's DAGs to be known", every=1)
    for dag in DAGS:
        api.call("PATCH", f"/dags/{dag}", json={"is_paused": False})
    for worker in WORKERS:
        shell(worker, f"rm -f {MARKERS}")
    return before


def withdraw(api: Api, database: Database, before: str) -> None:
    """Serve the release that was current before, and take the DAGs' runs away."""
    shell(PUBLISHER, f"ops-agent release flip {before} && ops-agent release refresh", timeout=120)
    # What a failed story left unfinished is given up, or Airflow would not delete it.
    for table in ("task_instance", "dag_run"):
        database.run(
            f"UPDATE {table} SET state = 'failed' WHERE dag_id LIKE 'chaos\\_%'"
            " AND (state IS NULL OR state NOT IN ('success', 'failed'));"
        )
    for dag in DAGS:
        api.call("DELETE", f"/dags/{dag}")


class Load:
    """Starts runs from threads of its own until it is left; remembers every run that Airflow accepted."""

    def __init__(self) -> None:
        self.accepted: list[tuple[str, str, float]] = []
        self.began = time.time()
        # When, by the fleet's mode, several schedulers worked at once.
        self.shared: list[tuple[float, float]] = []
        self._end = threading.Event()
        every = {"chaos_short": SHORT_EVERY_SECONDS, "chaos_long": LONG_EVERY_SECONDS}
        self._threads = [threading.Thread(target=self._keep, args=item, daemon=True) for item in every.items()]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(30)

    def start(self, dag: str, api: Api | None = None) -> str:
        """Start one run now and remember it."""
        run = (api or Api()).trigger(dag)
        self.accepted.append((dag, run, time.time()))
        return run

    def _keep(self, dag: str, every: float) -> None:
        api = Api()
        while not self._end.is_set():
            began = time.monotonic()
            try:
                self.start(dag, api)
            except requests.RequestException:
                # While the database is down nothing is accepted, and what was not accepted need not run.
                self._end.wait(0.5)
            self._end.wait(max(0.0, every - (time.monotonic() - began)))


def _mine(began: float) -> str:
    return f"dag_id LIKE 'chaos\\_%' AND run_id IN (SELECT run_id FROM dag_run WHERE queued_at > to_timestamp({began}))"


def unfinished(database: Database, load: Load) -> list[tuple[str, str]]:
    """Return the accepted runs that have not ended in success."""
    rows = database.rows("SELECT dag_id, run_id FROM dag_run WHERE state = 'success' AND dag_id LIKE 'chaos\\_%'")
    done = {(row["dag_id"], row["run_id"]) for row in rows}
    return [(dag, run) for dag, run, _ in load.accepted if (dag, run) not in done]


# How often Airflow's own log says that the task began to run.
_STARTS = """(SELECT count(*) FROM log AS l WHERE l.event = 'running' AND l.dag_id = ti.dag_id AND l.run_id = ti.run_id
  AND l.task_id = ti.task_id AND coalesce(l.map_index, -1) = ti.map_index)"""
_ENDED_BADLY = "state IN ('failed', 'upstream_failed', 'up_for_retry', 'removed', 'skipped')"


def harmed(database: Database, began: float) -> list[dict[str, Any]]:
    """Return the tasks that failed, were tried twice, or whose start Airflow's log has more than once."""
    return database.rows(
        f"SELECT dag_id, run_id, task_id, map_index, state, try_number, {_STARTS} AS starts FROM task_instance AS ti"
        f" WHERE {_mine(began)} AND ({_ENDED_BADLY} OR try_number > 1 OR {_STARTS} > 1)"
    )


def started_once(database: Database, began: float) -> int:
    """Return how many tasks that succeeded have exactly one start in Airflow's log."""
    found = f"SELECT count(*) FROM task_instance AS ti WHERE {_mine(began)} AND state = 'success' AND {_STARTS} = 1"
    return int(database.value(found))


def markers() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what the tasks themselves wrote: `start` or `end`, and which task it was."""
    for worker in WORKERS:
        for line in shell(worker, f"cat {MARKERS} 2>/dev/null || true").splitlines():
            what, *task = line.split()[:5]
            yield what, tuple(task)


def marked_twice() -> list[tuple[str, tuple[str, ...]]]:
    """Return the tasks that wrote a second start or end."""
    return [mark for mark, times in Counter(markers()).items() if times > 1]
