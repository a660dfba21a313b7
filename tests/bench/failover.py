"""How long a failover takes: from the fault to the first task that the other host's scheduler started.

`python -m tests.bench.failover [--rounds 10] [SCENARIO...]` runs against the lab under the failure stories' load and
prints one table. Without names it runs all; `--results FILE` keeps samples from run to run, so that scenarios can be
measured one at a time and reported together.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import failover_peers as peers
from tests.chaos import machines
from tests.chaos.lab import BROKER, DATABASE, Database, health, keeper_pid, scheduler_pid, settled, strike, until
from tests.chaos.load import Api, Load, harmed, publish, withdraw
from tests.chaos.recovery import MINE, first_task, newest_job, orphans, probing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_SECONDS = 60
PROBE_EVERY_SECONDS = 0.25
COST_SECONDS = 10
# Until the load's first runs, which all start at once, have ended: what is measured is a fleet in the midst of work.
STEADY_SECONDS = 60


@dataclass(frozen=True)
class Target:
    """What issue and README promise of a row, in its unit; None where nothing is promised."""

    unit: str = "s"
    median: float | None = None
    p95: float | None = None


TARGETS = {
    "scheduler killed: first new task": Target(median=1, p95=2.5),
    "keeper killed: first new task": Target(p95=4),
    "machine powered off: first new task": Target(p95=9),
    "machine frozen: first new task": Target(p95=9),
    "cut off from the database: first new task": Target(p95=9),
    "planned switchover: order to first new task": Target(p95=1.5),
    "running tasks re-owned after the new scheduler's start": Target(p95=5),
    "tasks queued and never sent: kill to the last one's start": Target(p95=10),
    "fencing": Target(unit="ms", p95=50),
    "what keepers cost the database": Target(unit="% of a core", p95=1),
}


@dataclass
class Bench:
    """The lab under load, and what was measured on it."""

    database: Database
    load: Load
    samples: dict[str, list[float]]

    def take(self, name: str, value: float) -> None:
        """Keep one sample and say so."""
        self.samples.setdefault(name, []).append(value)
        print(f"  {name}: {value:.3f}", file=sys.stderr, flush=True)

    def fault(self, name: str, fault: Callable[[str], float], repair: Callable[[str], None] | None = None) -> None:
        """Strike the active host and measure until the other host's scheduler has started a task of its own."""
        active, standby = self._calm()
        until(lambda: orphans(self.database, newest_job(self.database)), 90, "a task to be running")
        job = newest_job(self.database)
        with probing(self.load, PROBE_EVERY_SECONDS):
            struck = fault(active)
            try:
                self.take(f"{name}: first new task", first_task(self.database, struck, DEADLINE_SECONDS, job))
                self._adopted(job, standby)
            finally:
                if repair:
                    repair(active)

    def unsent(self) -> None:
        """Kill the scheduler when tasks it marked queued cannot reach the broker; measure until all of them started."""
        active, _ = self._calm()
        job, pid = newest_job(self.database), scheduler_pid(active)
        machines.cut(active, BROKER)
        try:
            cut = float(self.database.value("SELECT extract(epoch FROM clock_timestamp())"))
            with probing(self.load, PROBE_EVERY_SECONDS):
                queued = f"""FROM task_instance WHERE {MINE} AND state = 'queued'
                             AND queued_by_job_id = {job} AND queued_dttm > to_timestamp({cut})"""
                until(lambda: self.database.value(f"SELECT count(*) {queued}"), 30, "a queued task")
                key = "dag_id, run_id, task_id, map_index"
                self.database.run(f"CREATE TEMP TABLE unsent AS SELECT {key} {queued};")
                struck = strike(active, f"kill -9 {pid}")
                started = f"""SELECT CASE WHEN bool_and(t.start_date IS NOT NULL)
                                         THEN extract(epoch FROM max(t.start_date)) END
                             FROM unsent JOIN task_instance AS t USING ({key})"""
                last = float(until(lambda: self.database.value(started), DEADLINE_SECONDS, "the unsent tasks to start"))
        finally:
            machines.mend(active)
            self.database.run("DROP TABLE IF EXISTS unsent;")
        self.take("tasks queued and never sent: kill to the last one's start", last - struck)

    def switch_over(self) -> None:
        """Hand over in order, and measure from the order on."""
        _, standby = self._calm()
        job = newest_job(self.database)
        with probing(self.load, PROBE_EVERY_SECONDS):
            ordered = float(
                self.database.value(
                    f"SELECT extract(epoch FROM clock_timestamp()) FROM ops.hand_over('{standby}', 'benchmark')"
                )
            )
            seconds = first_task(self.database, ordered, DEADLINE_SECONDS, job)
        self.take("planned switchover: order to first new task", seconds)
        self._fenced()

    def cost(self) -> None:
        """Measure how much of the database server's time the keepers' calls take while nothing happens."""
        self._calm()
        query = "SELECT sum(total_exec_time) FROM pg_stat_statements WHERE query LIKE 'SELECT ops.%' AND toplevel"
        before, began = self.database.value(query), time.monotonic()
        time.sleep(COST_SECONDS)
        spent = float(self.database.value(query) - before) / 1000
        self.take("what keepers cost the database", 100 * spent / (time.monotonic() - began))

    def _calm(self) -> tuple[str, str]:
        """Wait until the last round's probes are done, or their queue would be measured; return active and standby."""
        waiting = f"SELECT count(*) = 0 FROM task_instance WHERE {MINE} AND state IN ('queued', 'scheduled')"
        until(lambda: self.database.value(waiting), 180, "no task to be waiting")
        active, standby = settled(180)
        # It decides about a hand-over and by nobody else's word, so a round waits for what it calls healthy.
        ready = f"SELECT ready FROM ops.lease_status WHERE host = '{standby}'"
        until(lambda: self.database.value(ready), 60, f"{standby} to be a healthy standby by the database's word")
        return active, standby

    def _adopted(self, job: int, standby: str) -> None:
        """Measure when the last of the dead scheduler's running tasks was the new one's."""
        until(lambda: not orphans(self.database, job), DEADLINE_SECONDS, "the running tasks to have a new owner")
        now = float(self.database.value("SELECT extract(epoch FROM clock_timestamp())"))
        began = self._fenced()
        assert health(standby)["state"] == "active"
        self.take("running tasks re-owned after the new scheduler's start", now - began)

    def _fenced(self) -> float:
        query = """SELECT extract(epoch FROM at) AS at, (detail ->> 'milliseconds')::float AS ms
                   FROM ops.lease_event WHERE event = 'fenced' ORDER BY id DESC LIMIT 1"""
        (event,) = self.database.rows(query)
        self.take("fencing", event["ms"])
        return float(event["at"])


def _kill(which: Callable[[str], int]) -> Callable[[str], float]:
    return lambda host: strike(host, f"kill -9 {which(host)}")


def _from_outside(act: Callable[[str], None]) -> Callable[[str], float]:
    def fault(host: str) -> float:
        struck = time.time()
        act(host)
        return struck

    return fault


SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "scheduler": lambda bench: bench.fault("scheduler killed", _kill(scheduler_pid)),
    "keeper": lambda bench: bench.fault("keeper killed", _kill(keeper_pid)),
    "unsent": Bench.unsent,
    "switchover": Bench.switch_over,
    "cost": Bench.cost,
    "cut": lambda bench: bench.fault(
        "cut off from the database", _from_outside(lambda host: machines.cut(host, DATABASE)), machines.mend
    ),
    "frozen": lambda bench: bench.fault("machine frozen", _from_outside(machines.freeze), machines.thaw),
    "power": lambda bench: bench.fault("machine powered off", _from_outside(machines.power_off), machines.power_on),
}

# What others have: in a row, because each needs both hosts set up for it.
PEERS = {"cold": peers.cold, "pair": peers.pair}


def p95(values: list[float]) -> float:
    """Return the 95th percentile: of fewer than twenty values, the largest."""
    return sorted(values)[-(-len(values) * 95 // 100) - 1]


def rows(samples: dict[str, list[float]]) -> Iterator[tuple[str, bool]]:
    """Yield a line of the table for each name, and whether it reached its target."""
    for name, values in samples.items():
        target = TARGETS.get(name, Target())
        median, worst = statistics.median(values), p95(values)
        promised = [(target.median, median, "median"), (target.p95, worst, "p95")]
        reached = all(value <= limit for limit, value, _ in promised if limit is not None)
        limits = ", ".join(f"{word} ≤ {limit:g} {target.unit}" for limit, _, word in promised if limit is not None)
        figures = " | ".join(f"{value:.2f}" for value in (min(values), median, worst, max(values)))
        verdict = ("yes" if reached else "NO") if limits else ""
        yield f"| {name} ({target.unit}) | {figures} | {len(values)} | {limits} | {verdict} |", reached


def measure(names: list[str], rounds: int, samples: dict[str, list[float]]) -> None:
    """Run the scenarios in turn, so that none has the quiet minutes to itself."""
    database, api = Database(), Api()
    settled(180)
    before = publish(api, database)
    try:
        with Load() as load:
            bench = Bench(database, load, samples)
            time.sleep(STEADY_SECONDS)
            for number in range(rounds):
                for name in [name for name in names if name in SCENARIOS]:
                    print(f"round {number + 1}/{rounds}: {name}", file=sys.stderr, flush=True)
                    SCENARIOS[name](bench)
            for name in [name for name in names if name in PEERS]:
                print(name, file=sys.stderr, flush=True)
                PEERS[name](database, load, rounds, bench.take)
            settled(180)
            assert harmed(database, load.began) == []
    finally:
        withdraw(api, database, before)
        database.close()


def main() -> int:
    """Measure and print; return 0 when every target was reached, 4 otherwise, 1 when a round failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, *PEERS, []], help="which of them; all by default")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--results", type=Path, help="keep samples here, and report those of earlier runs too")
    words = parser.parse_args()
    samples: dict[str, list[float]] = {}
    if words.results and words.results.exists():
        samples = json.loads(words.results.read_text())
    failure = ""
    try:
        if words.rounds:
            failure = attempt(lambda: measure(words.scenarios or [*SCENARIOS, *PEERS], words.rounds, samples))
    finally:
        if words.results:
            words.results.write_text(json.dumps(samples))
    return conclude(samples, failure)


def attempt(work: Callable[[], None]) -> str:
    """Do it; return what went wrong on the lab, if anything."""
    try:
        work()
    except (OSError, AssertionError, subprocess.SubprocessError) as error:
        return " ".join(str(error).split()) or repr(error)
    return ""


def conclude(samples: dict[str, list[float]], failure: str) -> int:
    """Print what was measured, in full or until the failure; return the exit code."""
    lines = list(rows(samples))
    print("| figure | min | median | p95 | max | rounds | target | reached |\n|---|---|---|---|---|---|---|---|")
    print("\n".join(line for line, _ in lines))
    if failure:
        print(f"failover bench: not all rounds were measured: {failure}", file=sys.stderr)
        return 1
    return 0 if all(reached for _, reached in lines) else 4


if __name__ == "__main__":
    sys.exit(main())
