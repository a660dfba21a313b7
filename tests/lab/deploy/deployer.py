"""Runs `ops` as an operator or a CI job does, from a git repository of DAGs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
SECONDS = 540


@dataclass
class Done:
    """What one `ops` printed, and its exit code."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        return json.loads(self.stdout)


def start(*words: str) -> subprocess.Popen[str]:
    """Start `ops`."""
    command = [str(Path(sys.executable).with_name("ops")), *words]
    environment = os.environ | {"OPS_HOME": str(ROOT), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> Done:
    stdout, stderr = process.communicate(timeout=SECONDS)
    return Done(process.returncode, stdout, stderr)


class Repository:
    """DAG files in git, beside those of this repository, which the lab's own checks need."""

    def __init__(self, folder: Path) -> None:
        self.dags = folder / "dags"
        shutil.copytree(ROOT / "dags", self.dags, ignore=shutil.ignore_patterns("__pycache__"))
        self.git("init", "-q", "-b", "main", ".")
        self.commit("As it is")

    def git(self, *words: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        command = ["git", "-C", str(self.dags), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def write(self, **files: str) -> None:
        """Write files, by name without `.py`, and commit them."""
        for name, text in files.items():
            (self.dags / f"{name}.py").write_text(text)
        self.commit(f"Change {', '.join(files)}")

    def commit(self, message: str) -> None:
        self.git("add", "--all", ".")
        self.git("commit", "-q", "-m", message)

    def deploy(self, *words: str) -> Done:
        return finish(self.start_deploy(*words))

    def start_deploy(self, *words: str) -> subprocess.Popen[str]:
        return start("deploy", str(self.dags), "--yes", "--format", "json", *words)


def gate(path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Validate a directory on the lab; return the exit code and the report."""
    done = finish(start("validate", str(path), "--format", "json", *words))
    assert done.stdout, done.stderr
    return done.code, done.json()


def rules(report: dict[str, Any], file: str) -> Sequence[str]:
    """Return what the gate found in one file."""
    return sorted(found["rule"] for found in report["findings"] if found["file"] == file)
