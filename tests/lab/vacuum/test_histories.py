"""Generated histories: exactly the runs that may go are gone, and every row is in one place."""

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops_agent.metadata.shelf.store import Directory
from ops_agent.metadata.take import engine
from ops_agent.metadata.take.plan import Request
from ops_agent.metadata.take.policy import Policy
from tests.lab.vacuum.cluster import Cluster, archived, orphans, rows, together
from tests.lab.vacuum.history import History, Run, Task

FINISHED = {"success", "failed"}
UNFINISHED_TASKS = {"scheduled", "queued", "running", "restarting", "deferred", "up_for_retry", "up_for_reschedule"}
TASKS = st.builds(
    Task,
    state=st.sampled_from(["success", "success", "failed", "skipped", "removed", None, "running", "up_for_retry"]),
    extras=st.frozensets(
        st.sampled_from(["xcom", "rendered", "map", "reschedule", "note", "hitl", "history"]), max_size=7
    ),
)
RUNS = st.builds(
    Run,
    dag=st.sampled_from(["a", "b"]),
    state=st.sampled_from(["success", "success", "success", "failed", "running", "queued"]),
    ended=st.sampled_from([None, 1, 89, 91, 300]),
    logical=st.one_of(st.none(), st.integers(1, 10_000)),
    kind=st.sampled_from(["scheduled", "manual", "backfill"]),
    backfill=st.sampled_from(["", "", "", "finished", "unfinished"]),
    callback=st.sampled_from(["", "", "success", "scheduled", "running"]),
    tasks=st.lists(TASKS, max_size=2).map(tuple),
    extras=st.frozensets(st.sampled_from(["note", "asset", "partition", "store"]), max_size=4),
)
HISTORIES = st.lists(RUNS, max_size=12, unique_by=lambda run: (run.dag, run.logical) if run.logical else object())


def goes(run: Run, history: list[Run], keep: int) -> bool:
    """Say, in other words than the engine's, whether a run may go."""
    of_dag = [other for other in history if other.dag == run.dag]
    # The newest is the one that could begin last; of two, the one that was written last.
    newest = sorted(of_dag, key=lambda other: (-began(other), history_index(history, other)))[-keep:]
    over = run.state in FINISHED and run.ended is not None and run.ended > 90
    tasks_over = not any(task.state in UNFINISHED_TASKS for task in run.tasks)
    if not over or not tasks_over or run.backfill == "unfinished" or run.callback == "running":
        return False
    return not any(other is run for other in newest) and looked_back_at_by_finished(run, of_dag)


def began(run: Run) -> float:
    return run.logical if run.logical is not None else (run.ended or 0) + 1


def history_index(history: list[Run], run: Run) -> int:
    return next(number for number, other in enumerate(history) if other is run)


def looked_back_at_by_finished(run: Run, of_dag: list[Run]) -> bool:
    if run.logical is None:
        return True
    later = sorted(
        (other for other in of_dag if other.logical is not None and other.logical < run.logical),
        key=lambda other: -(other.logical or 0),
    )
    scheduled = [other for other in later if other.kind != "manual"]
    needed = [later] if run.kind == "manual" else [later, scheduled]
    return all(runs and runs[0].state in FINISHED for runs in needed)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=HISTORIES, keep=st.integers(1, 3))
def test_generated_history_is_split_exactly(cluster: Cluster, drawn: list[Run], keep: int) -> None:
    # Equal runs would be one object to the shrinker.
    history = [Run(**vars(run)) for run in drawn]
    database = cluster.fresh("t_history")
    with cluster.connect(database) as admin, TemporaryDirectory() as directory:
        written = History(admin)
        for dag in ("a", "b"):
            written.dag(dag)
        ids = [written.run(run) for run in history]
        before = rows(admin)
        store = Directory(Path(directory))
        request = Request(Policy(timedelta(days=90), keep_last=keep), "a test", gentle=False)
        engine.Vacuum(cluster.dsn(database), store, request, lambda _: None).run()
        left = {found for (found,) in admin.execute("SELECT id FROM dag_run")}
        assert left == {found for found, run in zip(ids, history, strict=True) if not goes(run, history, keep)}
        assert together(rows(admin), archived(store, admin)) == before
        assert orphans(admin) == []
