"""Trees of many DAG files for the deploy benchmark."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FILES, CHANGED = 500, 10
DAG = """from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, task

with DAG(
    "bench_{number:03}",
    schedule=None,
    start_date=datetime(2025, 1, 1),
    tags=["{version}"],
    default_args={{"owner": "bench", "retries": 1, "execution_timeout": timedelta(minutes=5)}},
):

    @task
    def extract():
        return {number}

    @task
    def transform(rows):
        return [rows] * 3

    load = BashOperator(task_id="load", bash_command="echo {version}")
    transform(extract()) >> load
"""


def text(number: int, version: str) -> str:
    """Return one DAG file."""
    return DAG.format(number=number, version=version)


def write(folder: Path) -> None:
    """Write the tree: FILES DAGs beside those of this repository, which the lab's own checks need."""
    shutil.copytree(ROOT / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for number in range(FILES):
        (folder / f"bench_{number:03}.py").write_text(text(number, "base"))


def change(folder: Path, version: str) -> None:
    """Change CHANGED of the files."""
    for number in range(CHANGED):
        (folder / f"bench_{number:03}.py").write_text(text(number, version))
