import runpy
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]


def test_the_dags_know_the_pools_that_workers_may_be_of() -> None:
    known = yaml.safe_load((ROOT / "roles/airflow_worker/defaults/main.yml").read_text())["airflow_worker_pools"]
    assert list(runpy.run_path(str(ROOT / "dags/common/pools.py"))["POOLS"]) == known
