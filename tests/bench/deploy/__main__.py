"""Deploys of 500 DAG files with 10 changed: on the lab's fleet, and beside files that are replaced in place.

Run on a lab at rest: `python -m tests.bench.deploy`. The release that served before serves again at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import testinfra

from tests.bench.deploy import peer, reading, trees
from tests.bench.report import Figure, report

ROUNDS = 10


def ops(*words: str) -> tuple[dict[str, Any], float]:
    """Run `ops` and return its JSON and its seconds; exit when it fails."""
    started = time.monotonic()
    command = [str(Path(sys.executable).with_name("ops")), *words, "--format", "json"]
    environment = os.environ | {"OPS_HOME": str(trees.ROOT), "PYTHONPATH": str(trees.ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout), time.monotonic() - started


def p95(values: list[float]) -> float:
    """Return the 95th percentile: the slowest of up to twenty."""
    return sorted(values)[-1 - len(values) // 20]


def deploys(folder: Path) -> list[Figure]:
    """Deploy and roll back by turns; return the figures."""
    trees.write(folder)
    ops("deploy", str(folder), "--yes", "--message", "Benchmark: 500 files")
    gate, visible, whole, back = [], [], [], []
    for turn in range(1, ROUNDS + 1):
        trees.change(folder, f"round{turn}")
        deployed, seconds = ops("deploy", str(folder), "--yes", "--message", f"Benchmark: round {turn}")
        if len(deployed["changed"]) != trees.CHANGED:
            sys.exit(f"{len(deployed['changed'])} DAGs were changed, not {trees.CHANGED}")
        gate.append(deployed["validated_s"])
        visible.append(deployed["visible_s"])
        whole.append(seconds)
        back.append(ops("rollback", "--yes")[1])
        print(f"round {turn}: deploy {seconds:.1f} s, rollback {back[-1]:.1f} s", file=sys.stderr)
    return [
        Figure(f"gate, {trees.FILES} DAG files, p95 of {ROUNDS}", p95(gate), "s", 30),
        Figure(f"flip to all {trees.CHANGED} changed DAGs served, p95", p95(visible), "s", 5),
        Figure("`ops deploy`, from the command to verified, p95", p95(whole), "s", 60),
        Figure("`ops rollback`, from the command to verified, p95", p95(back), "s", 10),
    ]


def main() -> int:
    """Measure everything and put the fleet back."""
    os.environ.setdefault("ANSIBLE_INVENTORY", str(trees.ROOT / "inventories/lab"))
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    before = str(ops("releases", "list")[0]["current"])
    try:
        with tempfile.TemporaryDirectory() as work:
            figures = deploys(Path(work, "dags"))
        read = reading.measure(testinfra.get_host("ansible://sched1"))
    finally:
        if ops("releases", "list")[0]["current"] != before:
            ops("rollback", before, "--yes")
    sides = peer.compare(testinfra.get_host("ansible://sched2"), testinfra.get_host("ansible://pg1"))
    ours, stock = sides["ours"], sides["stock"]
    figures += [
        Figure(f"runs in flight that mixed code, of {peer.RUNS}: ours", ours.mixed_runs, "runs", 0),
        Figure("the same, files replaced in place under LocalDagBundle", stock.mixed_runs, "runs", 1, at_least=True),
        Figure(
            "change to seen, in place under LocalDagBundle, against ours in the same run",
            stock.visible_seconds / ours.visible_seconds,
            "times",
            1,
            at_least=True,
        ),
        Figure(
            "reading a release from the host's copy, against a plain one", read["cache"] / read["disk"], "times", 1.1
        ),
        Figure(
            "reading it from the share, against the host's copy",
            read["share"] / read["cache"],
            "times",
            1,
            at_least=True,
        ),
    ]
    return report(figures)


if __name__ == "__main__":
    sys.exit(main())
