"""The parts of other projects' insides that airfleet replaces or relies on, and the text each was written for.

Run in Airflow's environment, as `python -m ops_airflow.upstream`, it names every part whose text is another one now and
exits with 4. The build of an environment runs it, so an upgrade starts here: read what changed, look at the place that
uses it, and put the new digest (`--list` prints them) into the list.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import sys
from typing import Any, NamedTuple


class Part(NamedTuple):
    """A function or class by its qualified name, the SHA-256 of its source, and what airfleet does about it.

    `replaces` is the attribute that is set in its stead, where that is another: what the part reads, then.
    """

    name: str
    sha256: str
    place: str
    replaces: str = ""


_MANAGER = "airflow.dag_processing.manager.DagFileProcessorManager"
_EXECUTOR = "airflow.providers.celery.executors.celery_executor.CeleryExecutor"
_RUNNER = "airflow.jobs.scheduler_job_runner"

PARTS = (
    Part(
        f"{_RUNNER}.SchedulerJobRunner._exit_gracefully",
        "a386800c46c356f1232d8c11e6ee368b9db27652233593a5054ce7c3f3a7f937",
        "scheduler.airflow_scheduler: ends the loop instead",
    ),
    Part(
        f"{_RUNNER}.SchedulerJobRunner._run_scheduler_loop",
        "d7dd5578d64a9b0bf49de3d7631f107a9ff5a5fcc2f9263a8d7c441e16efde28",
        "scheduler.airflow_scheduler: compares num_runs at its end, sleeps by time.sleep",
        f"{_RUNNER}.time",
    ),
    Part(
        f"{_RUNNER}._is_parent_process",
        "731ee9871ec9167cd3e93264aea4e6cf9cfe3f0892aa29ba6559db02abf04f17",
        "scheduler.airflow_scheduler: asked as the stock handler does",
    ),
    Part(
        "airflow.cli.commands.scheduler_command._run_scheduler_job",
        "e7152ef6f062a547080e66c91d52bb4a74825e6c9f670712ec9b0b9cbd53dd15",
        "scheduler.airflow_scheduler: called",
    ),
    Part(
        "airflow.providers.celery.executors.celery_executor_utils._get_celery_app_for_workload",
        "2ab6ef73ea5c6d1e5981c19e060e66bc3056e6d416d6a2ffd62eb3684f1b5101",
        "scheduler.airflow_scheduler: called before the fork",
    ),
    Part(
        f"{_EXECUTOR}.heartbeat",
        "4083ff4347d1bf69aeaf666713538babb369f6d39b1549a89258fb9d32a908ee",
        "scheduler.airflow_scheduler: tells the keeper of each loop",
    ),
    Part(
        f"{_EXECUTOR}.try_adopt_task_instances",
        "b34845fd531bde229b4be37b9f31976cd3c5ca66aa20c1d45740f4cf52a44c1b",
        "scheduler.airflow_scheduler: sends doubtful tasks again",
    ),
    Part(
        f"{_EXECUTOR}._send_workloads_to_celery",
        "37c1f2f042b06650de5335e1276ca69a6b118daa1fb2f785bbd0e64d9d7a58ea",
        "scheduler.airflow_scheduler: leaves tasks queued",
    ),
    Part(
        "airflow.sdk.execution_time.supervisor.WatchedSubprocess._service_subprocess",
        "42a762c7c8aa4ea5f828154b0063be02bbb7aa90c62c0df2563e7f421e3445bd",
        "celery.task_exit: looks on while a process ends",
    ),
    Part(
        "celery.worker.consumer.tasks.Tasks.start",
        "1c15ceddac6764a98d7dac74f914dfda85a686bdd061cca432c3a4cfe9a6911f",
        "celery.consumer: begins with the free slots",
    ),
    Part(
        "celery.worker.consumer.tasks.Tasks.stop",
        "b082b2099f09ba2990beca89ae7e283702a09083ff210b3f6549c3330a40edc1",
        "celery.consumer: extended",
    ),
    Part(
        "celery.concurrency.asynpool.AsynPool.flush",
        "7315a8aaaf155e0c52f6f1d713366c2b154a83edd8b9bb039fcf61badf2decc5",
        "celery.pool: keeps busy processes busy",
    ),
    Part(
        "celery.backends.database.DatabaseBackend.exception_to_python",
        "863e25a1c14630afbacbdeb77620a44e94fb0008fecd2100af876ce3a248b308",
        "celery.results: names a failure as text instead of making it",
    ),
    Part(
        f"{_MANAGER}.__init__",
        "e620ba26deacae4b191af1be8480a5f8430e10cc1f5ceab4f73c1d947635646a",
        "dags.processor: extended",
    ),
    Part(
        f"{_MANAGER}._start_new_processes",
        "c35c41f9ab3faeab69677bf3c5bf6fb217146b25cd4a5e33f990f1d47661d455",
        "dags.processor: leaves files to other hosts first",
    ),
    Part(
        f"{_MANAGER}._service_processor_sockets",
        "060eadcb06a47352ed2c8bcd6894e9f642f723933fa6c4fe49a98065ba1bffde",
        "dags.processor: reads on until a process has ended",
    ),
    Part(
        f"{_MANAGER}._create_process",
        "41f1263e050b6bb74869548dd25c0c9e7be4dce5bf29a5be18f64a17d8ab3ab7",
        "dags.processor: parses a file where its bundle is by then",
    ),
    Part(
        f"{_MANAGER}.handle_parsing_result",
        "deb161b20157776c24eee041e031e1f47f251f1db7993dfa14cbcfa7dc77cb50",
        "dags.processor: throws away a result of another release",
    ),
    Part(
        f"{_MANAGER}._refresh_dag_bundles",
        "7ad2d5a0ac6ced40521a8ebfcf014013a90650b5c5a7df03841e5eb229014dca",
        "dags.processor: takes over what did not change",
    ),
    Part(
        f"{_MANAGER}.deactivate_deleted_dags",
        "1748fb2724ce485f8bb0adf690dabc0df5ef13ca01da10815ff4bb39aa076722",
        "dags.processor: keeps DAGs with unfinished runs",
    ),
    Part(
        f"{_MANAGER}.deactivate_stale_dags",
        "d48dfbe5269033b608667edb8784d2a274cf60db4cea104200ea3c090ba1837b",
        "dags.processor: retires those whose last run is over",
    ),
    Part(
        f"{_MANAGER}._add_files_to_queue",
        "81e416c3c6d1b4807d89fe791e8fc07c1642ccb52bd4d00312b4ccecd82e663b",
        "dags.processor: called, with its modes",
    ),
    Part(
        f"{_MANAGER}.get_bundle_state",
        "2bc9c3b7c72acd963bd4e844963ace790a1b531f13c783c6470f8b8b89c1ab50",
        "dags.processor: called",
    ),
    Part(
        "airflow.cli.commands.dag_processor_command._create_dag_processor_job_runner",
        "eea6e8b66dc01aa0d50478084056ed6c2f1f0c877f44963d0c0c5b35c06ad95b",
        "dags.processor: makes the manager",
        "airflow.cli.commands.dag_processor_command.DagFileProcessorManager",
    ),
    Part(
        "airflow.dag_processing.bundles.base.BaseDagBundle.__init__",
        "cae5174f6ec1c4fcfa09dc0baf2c45df4f6214a635bad85d66bf1edbec31b73f",
        "dags.bundle: extended",
    ),
    Part(
        "airflow.dag_processing.bundles.base.BaseDagBundle.initialize",
        "8de9acba879be7c589b3c29914b838b0f2e4a31744d09869c54a1fbc7f066b95",
        "dags.bundle: extended",
    ),
    Part(
        "airflow.utils.db._get_script_object",
        "ceb249670da7cfe1c75bf1efe80d53e9b20048d1ce8eb21248d660528263d63a",
        "schema: called",
    ),
    Part(
        "airflow.dag_processing.dagbag._validate_executor_fields",
        "ae47f553bb4e23a511de80392247870d97af0412e0287e81f6632a6159709c66",
        "gate: called as the dag-processor does",
    ),
    Part(
        "psycopg2.connect",
        "f2b8d31217ebbe4a0ce511175e08866cb2d18ba5f6f880a5848f6f1c59021f8b",
        "gate: connects by psycopg2._connect",
        "psycopg2._connect",
    ),
    Part(
        "airflow.dag_processing.processor._parse_file_entrypoint",
        "6df3c3ad4a07fec98882e03de9a1f8a33570eebdc75d9276f1e611a29433c884",
        "gate: sets what it sets in the process that imports a file",
        "airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS",
    ),
)


def found(name: str) -> Any:
    """Return the object of a qualified name; raise AttributeError or ImportError if there is none."""
    words = name.split(".")
    for length in range(len(words) - 1, 0, -1):
        try:
            thing = importlib.import_module(".".join(words[:length]))
        except ModuleNotFoundError:
            continue
        for word in words[length:]:
            thing = getattr(thing, word)
        return thing
    raise ImportError(name)


def digest(name: str) -> str:
    """Return the SHA-256 of the source that a qualified name has here; empty if it has none."""
    try:
        source = inspect.getsource(inspect.unwrap(found(name)))
    except (ImportError, AttributeError, OSError, TypeError):
        return ""
    return hashlib.sha256(source.encode()).hexdigest()


def changed() -> list[str]:
    """Return a line for each part that is not as it was when airfleet's own was written."""
    now = {part.name: digest(part.name) for part in PARTS}
    return [
        f"{part.name} {'is another now' if now[part.name] else 'is gone'} ({part.place})"
        for part in PARTS
        if now[part.name] != part.sha256
    ]


def main() -> int:
    """Print what changed, or with --list the digests of this environment."""
    if sys.argv[1:] == ["--list"]:
        sys.stdout.write(json.dumps({part.name: digest(part.name) for part in PARTS}, indent=2) + "\n")
        return 0
    lines = changed()
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 4 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
