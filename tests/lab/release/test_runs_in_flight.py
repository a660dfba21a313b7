"""Airflow itself with releases: no run mixes two, none is stranded, and a share that is away stops nothing."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

from tests.lab.release.scratch import HOME, Scratch

testinfra_hosts = ["ansible://sched2"]

Wait = Callable[..., Any]
DAG = """
import os, time
from airflow.sdk import dag, task
from common import VERSION

def note(context, name):
    with open(f"{home}/out/{{context['dag'].dag_id}}.{{context['run_id']}}", "a") as out:
        print(name, VERSION, __file__, file=out)

@dag(schedule=None)
def {dag}():
    @task
    def first(**context):
        note(context, "first")
        end = time.monotonic() + 240
        while not os.path.exists(f"{home}/out/go.{{context['run_id']}}") and time.monotonic() < end:
            time.sleep(0.5)

    @task
    def {second}(**context):
        note(context, "{second}")

    @task
    def third(**context):
        note(context, "third")

    first() >> {second}() >> third()

{dag}()
"""


def files(version: str, second: str, *dags: str) -> dict[str, str]:
    texts = {f"mit leer/{dag}.py": DAG.format(home=HOME, dag=dag, second=second) for dag in dags}
    return {"common/__init__.py": f"VERSION = '{version}'\n", **texts}


@pytest.fixture(scope="module")
def scratch() -> Iterator[Scratch]:
    made = Scratch(testinfra.get_host("ansible://sched2"), testinfra.get_host("ansible://pg1"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def lines(scratch: Scratch, wait_until: Wait) -> Callable[..., list[str]]:
    """Wait until a run has written so many lines, and return them without the path's common part."""

    def told(dag: str, run: str, count: int) -> list[str]:
        wait_until(lambda: len(scratch.told(dag, run)) >= count, deadline=180, what=f"{count} tasks of {dag} {run}")
        return [
            line.replace(f"{HOME}/cache/", "").replace(f"/dags/mit leer/{dag}.py", "")
            for line in scratch.told(dag, run)
        ]

    return told


def served_from(scratch: Scratch, dag: str) -> str | None:
    found = [one["release"] for one in scratch.agent("served")["dags"] if one["dag_id"] == dag]
    return found[0] if found else None


def test_runs_in_flight_finish_on_their_release(
    host: Host, scratch: Scratch, lines: Callable[..., list[str]], wait_until: Wait
) -> None:
    old = scratch.publish("old", files("A", "second", "story", "gone"))
    new = scratch.publish("new", files("B", "renamed", "story"))
    scratch.serve(old)
    wait_until(
        lambda: served_from(scratch, "story") == served_from(scratch, "gone") == old,
        deadline=180,
        what="the first parse",
    )
    scratch.trigger("story", "before")
    scratch.trigger("gone", "before")
    lines("story", "before", 1)
    lines("gone", "before", 1)
    scratch.serve(new)
    wait_until(lambda: served_from(scratch, "story") == new, deadline=30, what="the new release to be served")
    scratch.trigger("story", "between")
    lines("story", "between", 1)
    scratch.serve(old)
    wait_until(lambda: served_from(scratch, "story") == old, deadline=30, what="the rollback to be served")
    scratch.serve(new)
    wait_until(lambda: served_from(scratch, "story") == new, deadline=30, what="the new release to be served again")
    assert served_from(scratch, "gone") == old, "a DAG with a run in flight is not retired"
    host.check_output(f"touch {HOME}/out/go.before {HOME}/out/go.between")
    for dag in ("story", "gone"):
        assert lines(dag, "before", 3) == [f"{task} A {old}" for task in ("first", "second", "third")]
    assert lines("story", "between", 3) == [f"{task} B {new}" for task in ("first", "renamed", "third")]
    wait_until(lambda: served_from(scratch, "gone") is None, deadline=90, what="the removed DAG to be retired at last")
    wait_until(
        lambda: scratch.ask("SELECT DISTINCT state FROM dag_run") == ["success"],
        deadline=60,
        what="all runs to end well",
    )
    assert scratch.ask("SELECT DISTINCT state FROM task_instance") == ["success"]


def test_without_its_share_the_last_release_is_served_also_after_a_restart(
    host: Host, scratch: Scratch, lines: Callable[..., list[str]], wait_until: Wait
) -> None:
    release = scratch.publish("lasting", files("C", "second", "story"))
    scratch.serve(release)
    wait_until(lambda: served_from(scratch, "story") == release, deadline=60, what="the release to be served")
    host.check_output(f"mv {HOME}/share {HOME}/share.away && mkdir {HOME}/share")
    try:
        wait_until(
            lambda: "no current release" in scratch.agent("status")["dag_processor"]["problem"],
            deadline=60,
            what="the problem to be reported",
        )
        scratch.kill("dag-processor")
        since = scratch.agent("status")["dag_processor"]["since"]
        scratch.run("dag-processor")
        wait_until(
            lambda: scratch.agent("status")["dag_processor"]["since"] > since, deadline=90, what="the restart to serve"
        )
        parsed = scratch.ask("SELECT last_parsed_time FROM dag WHERE dag_id = 'story'")
        wait_until(
            lambda: scratch.ask("SELECT last_parsed_time FROM dag WHERE dag_id = 'story'") > parsed,
            deadline=90,
            what="the DAG to be parsed again",
        )
        assert scratch.ask("SELECT is_stale, bundle_version FROM dag WHERE dag_id = 'story'") == [f"f|{release}"]
        host.check_output(f"touch {HOME}/out/go.away")
        scratch.trigger("story", "away")
        assert lines("story", "away", 3) == [f"{task} C {release}" for task in ("first", "second", "third")]
    finally:
        host.check_output(f"rmdir {HOME}/share && mv {HOME}/share.away {HOME}/share")
    wait_until(
        lambda: scratch.agent("status")["dag_processor"]["problem"] == "", deadline=60, what="the problem to be over"
    )


def test_task_whose_release_cannot_be_had_waits_for_the_share_without_losing_a_try(
    host: Host, scratch: Scratch, lines: Callable[..., list[str]], wait_until: Wait
) -> None:
    release = scratch.agent("status")["current"]
    host.check_output(f"mv {HOME}/share {HOME}/share.away && mv {HOME}/cache/{release} {HOME}/lost")
    try:
        host.check_output(f"touch {HOME}/out/go.lost")
        scratch.trigger("story", "lost")
        state = "SELECT state FROM task_instance WHERE run_id = 'lost' AND task_id = 'first'"
        wait_until(lambda: scratch.ask(state) == ["up_for_reschedule"], deadline=120, what="the task to be put off")
    finally:
        host.check_output(f"mv {HOME}/share.away {HOME}/share")
    assert lines("story", "lost", 3) == [f"{task} C {release}" for task in ("first", "second", "third")]
    assert scratch.ask("SELECT DISTINCT try_number FROM task_instance WHERE run_id = 'lost'") == ["1"]
    assert scratch.ask("SELECT count(*) FROM dag WHERE is_stale AND dag_id = 'story'") == ["0"]


def test_task_that_is_cleared_after_its_release_was_pruned_fails_at_once(
    host: Host, scratch: Scratch, lines: Callable[..., list[str]], wait_until: Wait
) -> None:
    retried = DAG.replace("@dag(schedule=None)", "@dag(schedule=None, default_args={{'retries': 3}})")
    old, new = (
        scratch.publish(
            f"cleared-{version}",
            {
                "common/__init__.py": f"VERSION = '{version}'\n",
                "mit leer/cleared.py": retried.format(home=HOME, dag="cleared", second="second"),
            },
        )
        for version in ("D", "E")
    )
    scratch.serve(old)
    wait_until(lambda: served_from(scratch, "cleared") == old, deadline=120, what="the first parse")
    host.check_output(f"touch {HOME}/out/go.done")
    scratch.trigger("cleared", "done")
    lines("cleared", "done", 3)
    state = "SELECT state FROM dag_run WHERE run_id = 'done'"
    wait_until(lambda: scratch.ask(state) == ["success"], deadline=60, what="the run to end")
    scratch.serve(new)
    wait_until(lambda: served_from(scratch, "cleared") == new, deadline=60, what="the new release to be served")
    kept = {one["id"]: one["reasons"] for one in scratch.agent("prune", "--keep", "1")["kept"]}
    assert "1 run that ended in the last 30 days and may be cleared" in kept[old]
    scratch.agent("flip", new)
    # As if another flip had been between, and the run's end long ago.
    host.check_output(f"rm -f {HOME}/share/previous; rm -rf {HOME}/cache/{old}")
    assert old in scratch.agent("prune", "--keep", "1", "--clearable-days", "0")["removed"]
    scratch.shell("airflow tasks clear --yes --task-regex third cleared")
    third = "SELECT state, try_number FROM task_instance WHERE run_id = 'done' AND task_id = 'third'"
    wait_until(lambda: scratch.ask(third) == ["failed|2"], deadline=120, what="the cleared task to fail for good")
    log = scratch.shell("cat log/dag_id=cleared/run_id=done/task_id=third/*.log")
    assert f"release {old}, on which this run began, was pruned from the share" in log


SLOW = """
import time
from pathlib import Path
from airflow.sdk import dag, task

Path("{home}/out/parsing.{version}").touch()
time.sleep(8)

@dag(schedule=None, tags=["{version}"])
def slow():
    @task
    def one(): pass
    one()

slow()
"""


def test_result_of_a_parse_that_outlasts_a_flip_is_not_taken_for_the_new_releases(
    host: Host, scratch: Scratch, wait_until: Wait
) -> None:
    old, new = (
        scratch.publish(f"slow-{version}", {"slow.py": SLOW.format(home=HOME, version=version)})
        for version in ("old", "new")
    )
    scratch.agent("warm", new)
    scratch.serve(old)
    pairs = "SELECT d.bundle_version, t.name FROM dag d JOIN dag_tag t USING (dag_id) WHERE dag_id = 'slow'"
    wait_until(lambda: scratch.ask(pairs) == [f"{old}|old"], deadline=120, what="the first parse")
    host.check_output(f"rm {HOME}/out/parsing.old")
    wait_until(lambda: host.file(f"{HOME}/out/parsing.old").exists, deadline=120, what="the next parse to begin")
    scratch.agent("flip", new)
    scratch.agent("refresh")
    seen: list[str] = []

    def new_is_stored() -> bool:
        seen.extend(scratch.ask(pairs))
        return seen[-1] == f"{new}|new"

    wait_until(new_is_stored, deadline=120, what="the new release to be stored")
    assert set(seen) <= {f"{old}|old", f"{new}|new"}
    log = host.check_output(f"grep -c 'Parsing slow.py again' {HOME}/log/dag-processor.log")
    assert int(log) >= 1, "the flip came too late to prove anything"
