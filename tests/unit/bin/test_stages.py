"""`make test` runs every stage, whatever became of those before it, and says which failed."""

import os
import subprocess
from pathlib import Path

import pytest

MAKE = """#!/bin/sh
# The target's name says how it ends.
exit "${2#*-}"
"""


@pytest.fixture
def make(tmp_path: Path) -> Path:
    path = tmp_path / "make"
    path.write_text(MAKE)
    path.chmod(0o755)
    return path


def stages(root: Path, make: Path, *targets: str) -> subprocess.CompletedProcess[str]:
    command = [str(root / "bin/stages"), *targets]
    return subprocess.run(command, env=os.environ | {"MAKE": str(make)}, capture_output=True, text=True, check=False)


def test_every_stage_runs_after_one_that_failed(root: Path, make: Path) -> None:
    done = stages(root, make, "lint-0", "config-2", "lab-0", "chaos-1")
    assert done.returncode == 1
    said = [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert said == [["lint-0", "passed"], ["config-2", "FAILED"], ["lab-0", "passed"], ["chaos-1", "FAILED"]]
    assert "failed: config-2 chaos-1" in done.stdout


def test_stages_that_all_pass_end_with_0(root: Path, make: Path) -> None:
    done = stages(root, make, "lint-0", "lab-0")
    assert (done.returncode, "failed:" in done.stdout) == (0, False)


def test_an_interrupted_stage_is_the_last(root: Path, make: Path) -> None:
    done = stages(root, make, "lint-130", "lab-0")
    assert done.returncode == 130
    assert "lint-130     interrupted" in done.stdout
    assert "lab-0" not in done.stdout
