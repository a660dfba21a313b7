"""Deploys and rollbacks on the whole fleet: runs keep their code, broken releases never serve, kills do no harm."""

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import machines
from tests.lab.deploy.deployer import Done, Repository, finish
from tests.lab.deploy.story import begin, reports, tell

testinfra_hosts = ["ansible://sched1"]
pytestmark = pytest.mark.story

Wait = Callable[..., Any]


def test_runs_finish_on_the_release_they_began_on(
    repository: Repository, run_ops: Callable[..., Done], fleet: Any, wait_until: Wait
) -> None:
    tell(repository, 1, "second", "third")
    one = repository.deploy()
    assert one.code == 0, one.stderr
    first = begin(fleet, wait_until)
    tell(repository, 2, "renamed", "added")
    two = repository.deploy().json()
    assert (two["changed"], two["rolled_back"]) == (["deploy_story"], False)
    second = begin(fleet, wait_until)
    back = run_ops("rollback", "--yes", "--format", "json").json()
    assert (back["release"], back["previous"]) == (one.json()["release"], two["release"])
    old, new = one.json()["release"], two["release"]
    assert reports(fleet, first, wait_until) == {task: [1, 1, old] for task in ("first", "second", "third")}
    assert reports(fleet, second, wait_until) == {task: [2, 2, new] for task in ("first", "renamed", "added")}


def test_release_that_an_unfinished_run_needs_is_not_pruned(
    repository: Repository, run_ops: Callable[..., Done], fleet: Any, wait_until: Wait
) -> None:
    made = []
    for version in (1, 2, 3):
        tell(repository, version, "second", "third", seconds=90)
        done = repository.deploy()
        assert done.code == 0, done.stderr
        made.append(done.json()["release"])
        if version == 1:
            path = begin(fleet, wait_until)
    listed = run_ops("releases", "list", "--format", "json").json()["releases"]
    assert {one["id"]: one["unfinished_runs"] for one in listed if one["id"] in made} == dict(
        zip(made, (1, 0, 0), strict=True)
    )
    pruned = run_ops("releases", "prune", "--keep", "1", "--yes", "--format", "json").json()
    kept = {one["id"]: one["reasons"] for one in pruned["kept"]}
    assert "1 unfinished run" in kept[made[0]]
    assert "previous" in kept[made[1]]
    assert "current" in kept[made[2]]
    assert reports(fleet, path, wait_until)["third"] == [1, 1, made[0]]


@pytest.mark.parametrize("text", ["import nothing_like_it\n# airflow dag\n", "# airflow dag\ndef x(:\n"])
def test_broken_dag_never_becomes_current(repository: Repository, current: Callable[[], str], text: str) -> None:
    before = current()
    repository.write(broken_story=text)
    done = repository.deploy()
    assert done.code == 1
    assert "broken_story.py:" in done.stderr
    assert done.json()["published_s"] is None
    assert current() == before


def test_dirty_tree_is_refused_and_named(repository: Repository, current: Callable[[], str]) -> None:
    before = current()
    (repository.dags / "half_written.py").write_text("")
    done = repository.deploy()
    assert (done.code, current()) == (2, before)
    assert "half_written.py" in done.stderr


def test_dry_run_changes_nothing(repository: Repository, run_ops: Callable[..., Done]) -> None:
    before = run_ops("releases", "list", "--format", "json").json()
    tell(repository, 1, "second", "third")
    done = repository.deploy("--dry-run")
    assert (done.code, done.json()["added"]) == (0, ["deploy_story"])
    assert run_ops("releases", "list", "--format", "json").json() == before


def test_second_deploy_at_the_same_time_exits_with_5_and_names_the_first(repository: Repository) -> None:
    tell(repository, 1, "second", "third")
    one, two = repository.start_deploy(), repository.start_deploy()
    done = sorted((finish(one), finish(two)), key=lambda answer: answer.code)
    assert [answer.code for answer in done] == [0, 5], [answer.stderr for answer in done]
    assert "ops deploy" in done[1].stderr


@pytest.mark.parametrize("step", ["validating", "publishing", "copying", "flipping", "verifying"])
def test_deploy_that_is_killed_leaves_one_whole_release_and_the_next_one_works(
    step: str, repository: Repository, run_ops: Callable[..., Done], current: Callable[[], str]
) -> None:
    before = current()
    tell(repository, 1, "second", "third")
    process = repository.start_deploy()
    assert process.stderr
    with contextlib.closing(process.stderr) as said:
        assert any(step in line for line in said), f"it never came to {step}"
        os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    listed = run_ops("releases", "list", "--format", "json").json()
    assert not [one for one in listed["releases"] if one["error"]]
    if step in {"validating", "publishing", "copying"}:
        assert listed["current"] == before
    else:
        assert listed["current"] in {before, *(one["id"] for one in listed["releases"] if one["parent"] == before)}
    tell(repository, 2, "second", "third")
    again = repository.deploy()
    assert again.code == 0, again.stderr
    assert current() == again.json()["release"]


def test_worker_without_power_during_a_deploy_comes_back_and_runs_the_right_code(
    repository: Repository, fleet: Any, wait_until: Wait
) -> None:
    tell(repository, 7, "second", "third", seconds=1)
    machines.power_off("worker-io1")
    try:
        done = repository.deploy()
        assert done.code == 0, done.stderr
        assert [host["host"] for host in done.json()["hosts"] if not host["reachable"]] == ["worker-io1"]
        path = begin(fleet, wait_until)
    finally:
        machines.power_on("worker-io1")
    assert reports(fleet, path, wait_until)["third"] == [7, 7, done.json()["release"]]


def test_dag_with_a_run_in_flight_may_not_move_to_another_file(
    repository: Repository, fleet: Any, current: Callable[[], str], wait_until: Wait
) -> None:
    tell(repository, 1, "second", "third", seconds=20)
    one = repository.deploy()
    assert one.code == 0, one.stderr
    path = begin(fleet, wait_until)
    repository.git("mv", "deploy_story.py", "moved_story.py")
    repository.commit("Move it")
    refused = repository.deploy()
    assert (refused.code, current()) == (1, one.json()["release"])
    assert "deploy_story has 1 unfinished run of" in refused.stderr
    assert reports(fleet, path, wait_until)["third"] == [1, 1, one.json()["release"]]
    moved = repository.deploy()
    assert moved.code == 0, moved.stderr
    assert reports(fleet, begin(fleet, wait_until), wait_until)["third"] == [1, 1, moved.json()["release"]]


def test_timer_deploys_a_branch_once_and_leaves_a_rollback_alone(
    repository: Repository, run_ops: Callable[..., Done], current: Callable[[], str], tmp_path: Path
) -> None:
    words = ["deploy", ".", "--yes", "--git-url", f"file://{repository.dags}", "--git-ref", "main"]
    words += ["--if-moved", str(tmp_path / "head.json")]
    tell(repository, 1, "second", "third")
    first = run_ops(*words)
    assert first.code == 0, first.stderr
    served = current()
    again = run_ops(*words)
    assert (again.code, again.stdout, again.stderr, current()) == (0, "", "", served)
    assert run_ops("rollback", "--yes").code == 0
    back = current()
    assert (run_ops(*words).code, current()) == (0, back)
    repository.write(broken_story="import nothing_like_it\n# airflow dag\n")
    for text in ("the gate refuses it", "is not tried again"):
        refused = run_ops(*words)
        assert (refused.code, current()) == (1, back)
        assert text in refused.stderr


def test_five_of_200_files_are_told_from_the_rest_and_a_large_one_is_carried(repository: Repository) -> None:
    plain = 'from airflow.sdk import DAG\nwith DAG("many_{0:03}"):\n    pass\n'
    repository.write(**{f"many {number:03} ü": plain.format(number) for number in range(200)})
    (repository.dags / "large.bin").write_bytes(os.urandom(5_000_000))
    repository.commit("A large file")
    many = repository.deploy()
    assert many.code == 0, many.stderr
    assert len(many.json()["added"]) == 200
    changed = {f"many {number:03} ü": plain.format(number).replace("):", ", tags=['x']):") for number in range(5)}
    repository.write(**changed)
    five = repository.deploy().json()
    assert five["changed"] == [f"many_{number:03}" for number in range(5)]
    assert (five["added"], five["removed"], five["rolled_back"]) == ([], [], False)
