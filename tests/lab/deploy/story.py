"""A DAG with a task on each pool, each of which says what code it ran."""

from collections.abc import Callable
from typing import Any

from tests.lab.deploy.deployer import Repository

Wait = Callable[..., Any]
STORY = """
import time
from pathlib import Path
from airflow.sdk import chain, dag, task
from common.story_version import VERSION as IMPORTED

VERSION = {version}

def where():
    return [VERSION, IMPORTED, next(part for part in Path(__file__).parts if part[:8].isdigit())]

@dag(schedule=None, catchup=False)
def deploy_story():
    @task(queue="cpu")
    def first():
        time.sleep({seconds})
        return where()

    @task(queue="memory")
    def {second}():
        return where()

    @task(queue="io")
    def {third}():
        return where()

    chain(first(), {second}(), {third}())

deploy_story()
"""


def tell(repository: Repository, version: int, second: str, third: str, seconds: int = 60) -> None:
    (repository.dags / "common" / "story_version.py").write_text(f"VERSION = {version}\n")
    repository.write(deploy_story=STORY.format(version=version, second=second, third=third, seconds=seconds))


def begin(fleet: Any, wait_until: Wait) -> str:
    """Start a run of the story; return when its first task runs."""
    fleet.call("PATCH", "/dags/deploy_story", json={"is_paused": False})
    run = fleet.call("POST", "/dags/deploy_story/dagRuns", json={"logical_date": None})["dag_run_id"]
    path = f"/dags/deploy_story/dagRuns/{run}/taskInstances"
    wait_until(lambda: fleet.call("GET", f"{path}/first")["state"] == "running", deadline=90, what="the first task")
    return str(path)


def reports(fleet: Any, path: str, wait_until: Wait) -> dict[str, Any]:
    """Wait for the run's end; return what each task said of the code it ran."""
    run = path.removesuffix("/taskInstances")
    state = wait_until(
        lambda: (found := fleet.call("GET", run)["state"]) in {"success", "failed"} and found,
        deadline=240,
        what="the run to end",
    )
    assert state == "success"
    tasks = [task["task_id"] for task in fleet.call("GET", path)["task_instances"]]
    return {task: fleet.call("GET", f"{path}/{task}/xcomEntries/return_value")["value"] for task in tasks}
