"""Chain hop: from a task's end to its successor's start, with airfleet's `scheduler_idle_sleep_time` and the stock one.

Both run on the same lab, DAG (`fleet_chain`) and worker, in turn. Stock means that option, and nothing
else, at Airflow's own default, set by a drop-in on the schedulers that is taken away again at the end.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import requests

from tests.bench.report import Figure, report

API = "http://10.77.0.11:8080"
PASSWORD = Path("/var/lib/airfleet/lab/secrets/airflow_admin")
DROP_IN = "/run/systemd/system/airflow-scheduler.service.d/bench.conf"
STOCK = {"AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1"}
ROUNDS = 2
RUN_DEADLINE_SECONDS = 180


def on_schedulers(command: str) -> None:
    """Run a shell command as root on one scheduler machine after the other; raises CalledProcessError when it fails."""
    ansible = ["ansible", "scheduler", "--forks", "1", "-m", "ansible.builtin.shell", "-a", command]
    subprocess.run(ansible, check=True, capture_output=True, text=True)


def use_stock(*, enabled: bool) -> None:
    """Give the schedulers stock settings, or airfleet's again, and wait until each schedules or is ready to."""
    lines = "".join(f"Environment={name}={value}\\n" for name, value in STOCK.items())
    change = f"printf '[Service]\\n{lines}' >{DROP_IN}" if enabled else f"rm -f {DROP_IN}"
    on_schedulers(
        f"mkdir -p $(dirname {DROP_IN}) && {change} && systemctl daemon-reload && systemctl restart airflow-scheduler"
        " && timeout 60 sh -c 'until curl -fs {{ ansible_host }}:8976/health; do sleep 0.5; done'"
    )


def session() -> requests.Session:
    """Return a session logged in to the public API through HAProxy."""
    http = requests.Session()
    login = {"username": "admin", "password": PASSWORD.read_text().strip()}
    answer = http.post(f"{API}/auth/token", json=login, timeout=30)
    answer.raise_for_status()
    http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
    return http


def run_chain(http: requests.Session) -> list[float]:
    """Run the DAG once; return its hops in seconds."""
    dag = f"{API}/api/v2/dags/fleet_chain"
    http.patch(dag, json={"is_paused": False}, timeout=30).raise_for_status()
    answer = http.post(f"{dag}/dagRuns", json={"logical_date": None}, timeout=30)
    answer.raise_for_status()
    run = f"{dag}/dagRuns/{answer.json()['dag_run_id']}"
    deadline = time.monotonic() + RUN_DEADLINE_SECONDS
    while (state := http.get(run, timeout=30).json()["state"]) not in ("success", "failed"):
        if time.monotonic() > deadline:
            sys.exit(f"fleet_chain is still {state} after {RUN_DEADLINE_SECONDS} s")
        time.sleep(1)
    if state != "success":
        sys.exit(f"fleet_chain ended {state}")
    tasks = http.get(f"{run}/taskInstances", params={"limit": 100}, timeout=30).json()["task_instances"]
    times = sorted((datetime.fromisoformat(t["start_date"]), datetime.fromisoformat(t["end_date"])) for t in tasks)
    return [(after[0] - before[1]).total_seconds() for before, after in itertools.pairwise(times)]


def main() -> int:
    """Measure stock and ours in turn."""
    http = session()
    stock: list[float] = []
    ours: list[float] = []
    try:
        for turn in range(1, ROUNDS + 1):
            use_stock(enabled=True)
            stock += run_chain(http)
            use_stock(enabled=False)
            ours += run_chain(http)
            print(f"round {turn}: {len(ours)} hops each", file=sys.stderr)
    finally:
        use_stock(enabled=False)
    hop = statistics.median(ours)
    ratio = statistics.median(stock) / hop
    return report(
        [
            Figure("chain hop, median", hop, "s", 0.35),
            Figure("chain hop with stock scheduler_idle_sleep_time, against ours", ratio, "times", 1, at_least=True),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
