"""A converge that changes nothing: ours, and the same with Ansible's defaults and pip on every Airflow host."""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.report import Figure, report

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / "tests/bench/peer"


def converge(config: Path, playbook: Path) -> float:
    """Run a playbook under one ansible.cfg; return its seconds. Exits when it fails or changes anything."""
    started = time.monotonic()
    done = subprocess.run(
        ["ansible-playbook", "-i", ROOT / "inventories/lab", playbook],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(config), "ANSIBLE_ROLES_PATH": str(ROOT / "roles")},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    changed = sum(int(n) for n in re.findall(r"changed=(\d+)", done.stdout))
    if done.returncode or changed:
        tail = done.stdout[-3000:] + done.stderr
        sys.exit(f"{playbook} under {config}: exit {done.returncode}, changed={changed}\n{tail}")
    return seconds


def main() -> int:
    """Alternate the two, so that a drift of the machine's speed meets both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each converges")
    rounds = parser.parse_args().rounds
    subprocess.run(["ansible-playbook", PEER / "prepare.yml"], cwd=ROOT, check=True, stdout=sys.stderr)
    ours, peers = [], []
    for turn in range(1, rounds + 1):
        ours.append(converge(ROOT / "ansible.cfg", ROOT / "site.yml"))
        peers.append(converge(PEER / "ansible.cfg", PEER / "site.yml"))
        print(f"round {turn}: ours {ours[-1]:.1f} s, peer {peers[-1]:.1f} s", file=sys.stderr)
    ratio = statistics.median(peer / our for our, peer in zip(ours, peers, strict=True))
    return report(
        [
            Figure("no-op `ansible-playbook site.yml`, median", statistics.median(ours), "s", 75),
            Figure("the same with Ansible's defaults and pip per host, against ours", ratio, "times", 3, at_least=True),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
