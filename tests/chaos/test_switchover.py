"""Planned switchovers: one after the other, asked for by two operators at once, asked for by one who is killed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.lab import ROOT, Database, health, settled, until
from tests.chaos.load import Load
from tests.chaos.recovery import first_task, hand_over, newest_job, probing

IN_A_ROW = 30
# Switchovers without a break take most of the lab's two cores: more probes than this would measure their own queue.
PROBE_EVERY_SECONDS = 4
DONE, CHECK_FAILED, LOCKED = 0, 4, 5


def failover(to: str, reason: str) -> "subprocess.Popen[str]":
    """Start `ops failover` as an operator would from a terminal of his own."""
    ops = str(Path(sys.executable).with_name("ops"))
    words = [ops, "failover", "--to", to, "--reason", reason, "--yes", "--format", "json"]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_thirty_switchovers_in_a_row(database: Database, load: Load) -> None:
    with probing(load, PROBE_EVERY_SECONDS):
        for number in range(IN_A_ROW):
            job = newest_job(database)
            before = time.time()
            hand_over(database, f"switchover {number}")
            first_task(database, before, 15, after_job=job)


def test_ops_failover_from_two_terminals_moves_the_scheduler_once(database: Database, load: Load) -> None:
    active, standby = settled()
    epoch, job = health(active)["epoch"], newest_job(database)
    with probing(load):
        began = time.time()
        both = [failover(standby, f"terminal {number}") for number in range(2)]
        said = [(process.wait(90), *process.communicate()) for process in both]
        first_task(database, began, 30, after_job=job)
    codes = sorted(code for code, _, _ in said)
    # The second finds the lock held, or, if it came later, its target active or not ready any more.
    assert codes[0] == DONE, said
    assert codes[1] != DONE, said
    (result,) = [json.loads(stdout) for code, stdout, _ in said if code == DONE]
    assert (result["kind"], result["from"], result["to"], result["fenced"]) == ("switchover", active, standby, True)
    assert (health(standby)["state"], health(standby)["epoch"]) == ("active", epoch + 1)


@pytest.mark.parametrize("after", [0.5, 1.5, 2.5])
def test_ops_killed_in_the_middle_leaves_nothing_half_done(database: Database, load: Load, after: float) -> None:
    """Wherever the kill falls, one host schedules afterwards and the lock is free."""
    _, standby = settled()
    with probing(load):
        process = failover(standby, "killed in the middle")
        time.sleep(after)
        process.kill()
        process.communicate()
        first_task(database, time.time(), 30)
    active, standby = settled()
    done = failover(standby, "after the kill")
    until(lambda: done.poll() is not None, 60, "ops failover to end")
    assert done.returncode == DONE, done.communicate()
    assert health(active)["state"] == "standby"
