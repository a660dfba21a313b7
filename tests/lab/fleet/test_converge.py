"""A fleet that was converged is as site.yml wants it: nothing is left to change, whichever way it is asked."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("words", "hosts"),
    [((), 12), (("--check", "--diff"), 12), (("--limit", "web1"), 1)],
    ids=["whole", "check", "one host"],
)
def test_second_converge_changes_nothing(words: tuple[str, ...], hosts: int) -> None:
    playbook = str(Path(sys.executable).with_name("ansible-playbook"))
    done = subprocess.run(
        [playbook, "-i", "inventories/lab", "site.yml", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    recap = re.findall(r"^(\S+) +: .*changed=(\d+)", done.stdout, re.MULTILINE)
    assert {name: changed for name, changed in recap if changed != "0"} == {}, done.stdout
    assert len([name for name, _ in recap if name != "localhost"]) == hosts
