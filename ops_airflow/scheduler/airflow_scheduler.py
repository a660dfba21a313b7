"""Airflow's scheduler as the keeper wants it: imported beforehand, forked, telling its progress, ending its loop.

Written for Airflow 3.3 and its Celery provider 3.26; each place that relies on their insides says which.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import select
import signal
import sys
import time
import types
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("ops_airflow.scheduler")

# What a running scheduler has imported and the modules below do not: found by comparing sys.modules.
_LATE_MODULES = (
    "airflow.api_fastapi.auth.tokens",
    "airflow.utils.scheduler_health",
    "airflow.utils.serve_logs",
    "celery.backends.database",
    "celery.backends.database.session",
    "celery.result",
    "kombu.transport.pyamqp",
    "sqlalchemy.dialects.postgresql.psycopg2",
)


def preload() -> bool:
    """Import all that a scheduler will need; return whether this process may be forked, having one thread only.

    Never touches the Celery app's `backend`, which would connect here, in the parent.
    """
    importlib.import_module("airflow.cli.commands.scheduler_command")
    from airflow.executors.executor_loader import ExecutorLoader  # noqa: PLC0415
    from airflow.models import import_all_models  # noqa: PLC0415
    from airflow.providers.celery.executors import celery_executor_utils as celery  # noqa: PLC0415
    from airflow.providers_manager import ProvidersManager  # noqa: PLC0415
    from sqlalchemy.orm import configure_mappers  # noqa: PLC0415

    ProvidersManager().initialize_providers_configuration()
    import_all_models()
    configure_mappers()
    for name in ExecutorLoader.get_executor_names():
        ExecutorLoader.import_executor_cls(name)
    app = celery._get_celery_app_for_workload(None)  # noqa: SLF001
    app.finalize()
    _ = app.tasks, app.connection_for_write().transport_cls
    for module in _LATE_MODULES:
        try:
            importlib.import_module(module)
        except ImportError as error:
            log.warning("not preloaded: %s", error)
    gc.collect()
    gc.freeze()
    return len(list(Path("/proc/self/task").iterdir())) == 1


def run(report: Callable[[float | None], None], resend_after: float | None) -> int:
    """Run the scheduler in this process, which is the keeper's child; return its exit code."""
    from airflow.cli.commands import scheduler_command  # noqa: PLC0415
    from setproctitle import setproctitle  # noqa: PLC0415

    importlib.import_module("airflow.settings").engine.dispose(close=False)
    setproctitle("airflow scheduler")
    _end_loop_on_sigterm()
    _tell_progress(report)
    _send_again(resend_after)
    _wait_for_the_broker()
    try:
        scheduler_command._run_scheduler_job(  # noqa: SLF001
            Namespace(num_runs=-1, only_idle=False, skip_serve_logs=True)
        )
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except Exception:
        log.exception("the scheduler failed")
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _end_loop_on_sigterm() -> None:
    """Finish the loop, so that what it has marked queued is also sent, where stock SIGTERM exits on the spot.

    SchedulerJobRunner compares the loop's number with `num_runs` at its end and sleeps by `time.sleep` when idle.
    """
    from airflow.jobs import scheduler_job_runner as module  # noqa: PLC0415

    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    class Time(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

        @staticmethod
        def sleep(seconds: float) -> None:
            select.select([woken], [], [], seconds)

    def exit_gracefully(self: Any, *_: Any) -> None:
        if not module._is_parent_process():  # noqa: SLF001
            return
        if self.num_runs == 1:
            sys.exit(os.EX_OK)
        self.num_runs = 1
        os.write(wake, b"x")

    module.time = Time("time")
    module.SchedulerJobRunner._exit_gracefully = exit_gracefully  # noqa: SLF001
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # until the loop has its own handler nothing is queued


def _tell_progress(report: Callable[[float | None], None]) -> None:
    """Report once a loop, and how far the broker has got everything: known whenever nothing is left to send."""
    from airflow.providers.celery.executors.celery_executor import CeleryExecutor  # noqa: PLC0415

    heartbeat = CeleryExecutor.heartbeat

    def reporting(self: Any) -> None:
        began = time.time()
        heartbeat(self)
        report(None if self.queued_tasks else began)

    CeleryExecutor.heartbeat = reporting


def _send_again(resend_after: float | None) -> None:
    """Have adopted tasks sent (again) that are queued, unstarted, and not known to have been sent.

    They go out under the Celery task id that is in the database already: should the first message exist, the two
    count as one task for Celery's results and for the executor's slots, and the Execution API starts only one.
    """
    from airflow.executors.workloads import ExecuteTask  # noqa: PLC0415
    from airflow.providers.celery.executors.celery_executor import CeleryExecutor  # noqa: PLC0415

    adopt = CeleryExecutor.try_adopt_task_instances

    def adopting(self: Any, tis: Any) -> Any:
        refused = adopt(self, tis)
        doubtful = {
            self.workloads[ti.key].task_id: ti
            for ti in tis
            if ti.key in self.workloads and _maybe_unsent(ti, resend_after)
        }
        known = self.bulk_state_fetcher.get_many([self.workloads[ti.key] for ti in doubtful.values()])
        again = [ti for task_id, ti in doubtful.items() if known[task_id][0] == "PENDING"]
        for ti in again:
            self.running.discard(ti.key)
            self.workloads.pop(ti.key)
            self.queued_tasks[ti.key] = ExecuteTask.make(ti, generator=self.jwt_generator)
        if again:
            log.info("sending %d queued tasks again that may never have been sent", len(again))
        return refused

    CeleryExecutor.try_adopt_task_instances = adopting


def _wait_for_the_broker() -> None:
    """Leave tasks queued that the broker could not be given, and try one before the others.

    Stock, the executor fails a task for any error but a timeout. Each timeout lasts `[celery] operation_timeout`: one
    for every queued task would make the loop look hung.
    """
    from airflow.providers.celery.executors.celery_executor import CeleryExecutor  # noqa: PLC0415
    from airflow.sdk.exceptions import AirflowTaskTimeout  # noqa: PLC0415
    from kombu.exceptions import OperationalError  # noqa: PLC0415

    send = CeleryExecutor._send_workloads_to_celery  # noqa: SLF001

    def sending(self: Any, workloads: Any) -> Any:
        sent = []
        for part in filter(None, (workloads[:1], workloads[1:])):
            for key, arguments, result in send(self, part):
                if isinstance(getattr(result, "exception", None), OperationalError | OSError):
                    result.exception = AirflowTaskTimeout(str(result.exception))
                sent.append((key, arguments, result))
            if isinstance(getattr(sent[0][2], "exception", None), AirflowTaskTimeout):
                break
        return sent

    CeleryExecutor._send_workloads_to_celery = sending  # noqa: SLF001


def _maybe_unsent(ti: Any, resend_after: float | None) -> bool:
    if ti.state != "queued" or ti.dag_version_id is None:
        return False
    return resend_after is None or not ti.queued_dttm or bool(ti.queued_dttm.timestamp() > resend_after)


def run_afresh(report: Callable[[float | None], None], resend_after: float | None) -> int:
    """Run the scheduler in a new interpreter: where threads forbid to go on in a copy of the keeper's."""
    pipe: int = report.pipe  # type: ignore[attr-defined]
    os.set_inheritable(pipe, True)  # noqa: FBT003
    code = "import sys; from ops_airflow.scheduler import airflow_scheduler as a; sys.exit(a.main(*sys.argv[1:]))"
    words = [sys.executable, "-c", code, str(pipe), "" if resend_after is None else str(resend_after)]
    os.execv(sys.executable, words)  # noqa: S606


def main(pipe: str, resend_after: str) -> int:
    """Be what run_afresh() starts."""
    from ops_airflow.scheduler.process import die_with_parent_forever, reporter  # noqa: PLC0415

    die_with_parent_forever()
    preload()
    return run(reporter(int(pipe)), float(resend_after) if resend_after else None)
