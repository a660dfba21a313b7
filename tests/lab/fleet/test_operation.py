"""The lock that commands take, over real SSH."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://database"]

HOLD = """
import sys
from ops_cli.fleet import inventory
from ops_cli.fleet import lock as operation
fleet = inventory.load("lab", inventory.find_home())
with operation.operation(fleet, "test", lock="metadata", reason="it's a \\"test\\"\\nof locks") as held:
    held.hosts = ["pg1"]
    print("held", flush=True)
    sys.stdin.read()
    held.check()
"""


def holder(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=root,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("end", ["ended", "killed"])
def test_lock_refuses_a_second_operation_until_the_first_is_over(host: Host, root: Path, end: str) -> None:
    first = holder(root)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    _, refusal = (second := holder(root)).communicate(timeout=30)
    assert second.returncode
    assert "has run ops test since" in refusal
    if end == "killed":
        os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while True:
        out, _ = (third := holder(root)).communicate(timeout=30)
        if third.returncode == 0 or time.monotonic() > deadline:
            break
    assert out == "held\n"
    line = json.loads(host.check_output("sudo tail -n 1 /var/log/ops-agent/audit.jsonl"))
    assert (line["verb"], line["hosts"], line["result"]) == ("test", ["pg1"], "done")
    assert line["reason"] == 'it\'s a "test"\nof locks'
