"""How long a task that does nothing holds its slot, with airfleet's `ops_airflow.celery.task_exit` and without it.

Both run on the same lab, DAG (`fleet_chain`) and workers, in turn. Stock means that the workers do not import that
module, by a drop-in that is taken away again at the end.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time

from tests.bench import chain_hop
from tests.bench.report import Figure, report

TASKS = 30
ROUNDS = 2
FOLDER = "/run/airfleet-bench"
DROP_IN = "/run/systemd/system/airflow-worker.service.d/bench.conf"
WITHOUT = (
    "import sys, types; sys.modules['ops_airflow.celery.task_exit'] = types.ModuleType('ops_airflow.celery.task_exit')"
)
FINISHED = re.compile(r"Workload finished .* duration=([0-9.]+)")


def on_workers(command: str) -> str:
    """Run a shell command as root on every worker; return what they print. Raises CalledProcessError when one fails."""
    ansible = ["ansible", "worker", "-m", "ansible.builtin.shell", "-a", command]
    return subprocess.run(ansible, check=True, capture_output=True, text=True).stdout


def use_stock(*, enabled: bool) -> None:
    """Have the workers start without the module, or with it again, and wait until they take tasks."""
    write = (
        f'mkdir -p {FOLDER} $(dirname {DROP_IN}) && echo "{WITHOUT}" >{FOLDER}/sitecustomize.py'
        f" && printf '[Service]\\nEnvironment=PYTHONPATH={FOLDER}\\n' >{DROP_IN}"
    )
    change = write if enabled else f"rm -rf {DROP_IN} {FOLDER}"
    on_workers(
        f"{change} && systemctl daemon-reload && since=$(date +%s) && systemctl restart airflow-worker && timeout 60"
        " sh -c 'until journalctl -u airflow-worker --since @'$since' | grep -q \" ready\\.\"; do sleep 0.5; done'"
    )


def held() -> list[float]:
    """Run the chain; return for how many seconds each of its tasks held a slot."""
    since = time.time()
    chain_hop.run_chain(chain_hop.session())
    end = time.monotonic() + 30
    while True:
        said = on_workers(f"journalctl -u airflow-worker --since @{since:.0f} --no-pager")
        seconds = [float(each) for each in FINISHED.findall(said)]
        if len(seconds) >= TASKS:
            return seconds
        if time.monotonic() > end:
            sys.exit(f"only {len(seconds)} of {TASKS} tasks were finished by their workers")
        time.sleep(1)


def main() -> int:
    """Measure stock and ours in turn."""
    stock: list[float] = []
    ours: list[float] = []
    try:
        for turn in range(1, ROUNDS + 1):
            use_stock(enabled=True)
            stock += held()
            use_stock(enabled=False)
            ours += held()
            print(f"round {turn}: {len(ours)} tasks each", file=sys.stderr)
    finally:
        use_stock(enabled=False)
    ratio = statistics.mean(stock) / statistics.mean(ours)
    return report(
        [
            Figure(f"slot held by a task that does nothing, mean of {len(ours)}", statistics.mean(ours), "s", 1),
            Figure("the same without ops_airflow.celery.task_exit, against ours", ratio, "times", 2, at_least=True),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
