"""Celery's results: what a worker wrote is never executed in the scheduler, whatever it wrote."""

import json
import shlex
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from testinfra.host import Host

# Reads as the scheduler does; worker-io1 writes, with what a task there can read.
testinfra_hosts = ["ansible://sched1"]

Machine = Callable[[str], Host]
PYTHON = (
    "cd /var/lib/airflow && runuser -u airflow -- env HOME=/var/lib/airflow AIRFLOW_HOME=/var/lib/airflow"
    " AIRFLOW_CONFIG=/etc/airflow/airflow.cfg /opt/airflow/current/bin/python -c %s"
)
PLANT = """
import os, pickle, sqlalchemy
from airflow.providers.celery.executors.celery_executor_utils import app

class Evil:
    def __reduce__(self):
        return (os.system, ("touch {marker}",))

app.backend.store_result("{told}", ValueError("boom"), "FAILURE")
app.backend.store_result("{done}", None, "SUCCESS")
plant = sqlalchemy.text(
    "INSERT INTO celery_taskmeta (id, task_id, status, result)"
    " VALUES (nextval('task_id_sequence'), :id, :status, :result)"
)
with sqlalchemy.create_engine(app.backend.url).begin() as connection:
    for name, status, result in {planted}:
        result = pickle.dumps(Evil()) if result is None else result.encode()
        connection.execute(plant, {{"id": name, "status": status, "result": result}})
"""
READ = """
import json
from airflow.providers.celery.executors.celery_executor_utils import BulkStateFetcher, app
results = [app.AsyncResult(name) for name in {ids}]
states = BulkStateFetcher(1, celery_app=app).get_many(results)
# As an adopting scheduler looks at them.
told = {{result.task_id: repr(result.result) for result in results}}
print(json.dumps({{name: [state, told[name]] for name, (state, _) in states.items()}}))
"""
# An exception class that the row names is one that the scheduler would make.
NAMED = json.dumps({"exc_type": "SystemExit", "exc_module": "builtins", "exc_message": ["bye"]})


@dataclass
class Rows:
    """Names of what stands in the table, and the file that a pickle would make."""

    ids: dict[str, str]
    marker: str


@pytest.fixture
def rows(machine: Machine) -> Iterator[Rows]:
    ids = {name: str(uuid.uuid4()) for name in ("told", "done", "evil", "evil_failure", "named", "deep")}
    rows = Rows(ids, f"/tmp/pickle-{uuid.uuid4().hex}")  # noqa: S108
    planted = [
        (ids["evil"], "SUCCESS", None),
        (ids["evil_failure"], "FAILURE", None),
        (ids["named"], "FAILURE", NAMED),
        (ids["deep"], "SUCCESS", "[" * 100_000),
    ]
    script = PLANT.format(marker=rows.marker, planted=planted, told=ids["told"], done=ids["done"])
    machine("worker-io1").check_output(PYTHON % shlex.quote(script))
    yield rows
    names = ", ".join(f"'{name}'" for name in ids.values())
    forget = f"DELETE FROM celery.celery_taskmeta WHERE task_id IN ({names})"
    machine("pg1").check_output(f'cd / && runuser -u postgres -- psql -qAtc "{forget}" airflow')


def test_what_a_worker_wrote_is_never_executed(host: Host, rows: Rows) -> None:
    read = host.run(PYTHON % shlex.quote(READ.format(ids=list(rows.ids.values()))))
    assert not host.file(rows.marker).exists
    assert read.rc == 0, read.stderr
    found = json.loads(read.stdout.splitlines()[-1])
    by_name = {name: found[task_id] for name, task_id in rows.ids.items()}
    assert {name: state for name, (state, _) in by_name.items()} == {
        "told": "FAILURE",
        "done": "SUCCESS",
        "evil": "SUCCESS",
        "evil_failure": "FAILURE",
        "named": "FAILURE",
        "deep": "SUCCESS",
    }
    assert by_name["told"][1].startswith("FailedElsewhere(")
    assert "boom" in by_name["told"][1]
    assert by_name["named"][1].startswith("FailedElsewhere(")
    assert [by_name[name][1] for name in ("done", "evil", "evil_failure", "deep")] == ["None"] * 4
