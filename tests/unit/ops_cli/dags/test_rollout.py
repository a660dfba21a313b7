"""Every way in which a rollout can go wrong, on a fleet whose clock is the test's."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from ops_cli.console.errors import ExitCode, OpsError
from ops_cli.dags.hosts import Warmed
from ops_cli.dags.rollout import Expected, Result, RolledBackError, Rollout, UnseenError
from ops_cli.dags.watch import UnwatchedError, Watch
from ops_cli.fleet.conversation import RemoteError
from ops_cli.fleet.inventory import Host

OLD, NEW = "20260101T000000Z-old", "20260102T000000Z-new"
DAGS = {"a": "a.py", "b": "b.py"}
AWAY = RemoteError(Host("sched1", "10.0.0.1", "scheduler"), 1, "the database is away")
HEALTHY = {"import_errors": 0, "parse_seconds": {}, "failed": 0, "succeeded": 9, "failed_dags": []}


def served(release: str, *, errors: Iterable[str] = (), dags: Iterable[str] = DAGS) -> dict[str, Any]:
    return {
        "bundle_release": release,
        "dags": [{"dag_id": dag, "release": release, "file": f"{dag}.py"} for dag in dags],
        "import_errors": [{"file": file, "error": "Traceback\nNameError: x"} for file in errors],
    }


class Fleet:
    """Serves the release that `current` names, some seconds after its flip."""

    def __init__(self) -> None:
        self.now = 0.0
        self.current, self.flipped_at = OLD, -100.0
        self.flips: list[str] = []
        self.warmed = [Warmed("sched1", reachable=True), Warmed("worker1", reachable=True)]
        self.answer: Callable[[str], dict[str, Any]] = served
        self.health_now: Iterator[dict[str, Any] | OpsError] = iter(())

    def warm(self, release: str) -> list[Warmed]:
        assert release in {OLD, NEW}
        return self.warmed

    def flip(self, release: str) -> dict[str, Any]:
        self.flips.append(release)
        self.now += 0.1
        self.current, self.flipped_at = release, self.now
        return {"release": release, "changed": True}

    def served(self, release: str = "") -> dict[str, Any]:
        assert release == self.current
        other = OLD if self.current == NEW else NEW
        return self.answer(self.current if self.now - self.flipped_at >= 2 else other)

    def health(self, since_seconds: float) -> dict[str, Any]:
        assert since_seconds > 0
        found = next(self.health_now)
        if isinstance(found, OpsError):
            raise found
        return found

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def rollout(fleet: Fleet, check: Callable[[], None] = lambda: None) -> Rollout:
    return Rollout(fleet, lambda _: None, check, "prod", clock=lambda: fleet.now, sleep=fleet.sleep)


def serve(fleet: Fleet, watch: Watch | None = None) -> Result:
    result = Result(NEW, OLD)
    rollout(fleet).serve(result, Expected(DAGS, frozenset({"a"})), Expected(DAGS), watch)
    return result


def test_release_serves_and_says_when() -> None:
    fleet = Fleet()
    result = serve(fleet)
    assert (fleet.flips, result.rolled_back) == ([NEW], False)
    assert result.visible_seconds == pytest.approx(2.1, abs=0.2)
    assert result.verified_seconds == pytest.approx(2.1, abs=0.2)


def test_many_dags_may_take_long_as_long_as_there_are_fewer_and_fewer() -> None:
    fleet = Fleet()
    many = {f"dag{number}": "x" for number in range(300)}

    def answer(release: str) -> dict[str, Any]:
        parsed = int(fleet.now - fleet.flipped_at)
        dags = [{"dag_id": dag, "release": release, "file": "x"} for dag in sorted(many)[:parsed]]
        return served(release) | {"dags": dags}

    fleet.answer = answer
    result = Result(NEW, OLD)
    rollout(fleet).serve(result, Expected(many), Expected(DAGS))
    assert result.verified_seconds == pytest.approx(300, abs=1)


def test_release_without_the_gate_is_verified_by_what_the_dag_processor_follows() -> None:
    fleet = Fleet()
    # A removed DAG stays on its old release while a run of it is unfinished.
    fleet.answer = lambda release: served(release) | {"dags": [{"dag_id": "gone", "release": "x", "file": "gone.py"}]}
    result = Result(NEW, OLD)
    rollout(fleet).serve(result, Expected({}), Expected(DAGS))
    assert result.verified_seconds == pytest.approx(2.1, abs=0.2)


def test_broken_dag_takes_the_release_back_and_is_named() -> None:
    fleet = Fleet()
    fleet.answer = lambda release: served(release, errors=["a.py"] if release == NEW else [])
    with pytest.raises(RolledBackError, match=rf"a\.py cannot be imported: NameError: x; {OLD} serves again"):
        serve(fleet)
    assert fleet.flips == [NEW, OLD]
    # Not at once: it might have been the old release's error.
    assert 5 <= fleet.now <= 15


def test_dag_that_its_broken_file_has_lost_is_not_waited_for() -> None:
    fleet = Fleet()
    fleet.answer = lambda release: served(release, errors=["a.py"], dags=["b"]) if release == NEW else served(release)
    with pytest.raises(RolledBackError, match=r": a\.py cannot be imported: NameError: x; 2026"):
        serve(fleet)
    assert fleet.now <= 15


def test_import_error_of_the_old_release_is_waited_out() -> None:
    fleet = Fleet()
    fleet.answer = lambda release: served(release, errors=["b.py"] if release == OLD or fleet.now < 4 else [])
    assert serve(fleet).verified_seconds == pytest.approx(4, abs=1)


def test_dag_that_is_never_served_takes_the_release_back_at_the_deadline() -> None:
    fleet = Fleet()
    fleet.answer = lambda release: served(release, dags=["a"] if release == NEW else DAGS)
    with pytest.raises(RolledBackError, match=r"DAG b is not in the database after 12\d s"):
        serve(fleet)
    assert fleet.flips == [NEW, OLD]


def test_database_that_stays_away_after_the_flip_takes_the_release_back() -> None:
    fleet = Fleet()

    def answer(release: str) -> dict[str, Any]:
        if fleet.current == NEW:
            raise AWAY
        return served(release)

    fleet.answer = answer
    with pytest.raises(RolledBackError, match=r"nobody could see for 12\d s.*the database is away") as failure:
        serve(fleet)
    assert fleet.current == OLD
    assert not failure.value.of_the_commit


def test_bug_after_the_flip_takes_the_release_back() -> None:
    fleet = Fleet()
    fleet.answer = lambda release: {} if fleet.current == NEW else served(release)
    with pytest.raises(RolledBackError, match="dags"):
        serve(fleet)
    assert fleet.current == OLD


def test_interrupt_after_the_flip_takes_the_release_back_and_stays_an_interrupt() -> None:
    fleet = Fleet()

    def answer(release: str) -> dict[str, Any]:
        if fleet.current == NEW:
            raise KeyboardInterrupt
        return served(release)

    fleet.answer = answer
    result = Result(NEW, OLD)
    with pytest.raises(KeyboardInterrupt):
        rollout(fleet).serve(result, Expected(DAGS), Expected(DAGS))
    assert (fleet.current, result.rolled_back) == (OLD, True)


def test_first_release_that_fails_stays_and_says_so() -> None:
    fleet = Fleet()
    fleet.answer = lambda release: served(release, errors=["a.py"])
    result = Result(NEW, None)
    with pytest.raises(OpsError, match=f"no release to go back to, {NEW} stays current"):
        rollout(fleet).serve(result, Expected(DAGS), Expected({}))
    assert (fleet.flips, result.rolled_back) == ([NEW], False)


def test_failed_way_back_is_said_with_both_reasons() -> None:
    fleet = Fleet()
    fleet.answer = lambda release: served(release, errors=["a.py"])
    with pytest.raises(OpsError, match=f"a.py.*going back to {OLD} failed too.*docs.runbooks.bad-deploy") as failure:
        serve(fleet)
    assert not isinstance(failure.value, RolledBackError)


def test_lost_lock_stops_before_the_flip() -> None:
    fleet = Fleet()

    def lost() -> None:
        raise OpsError("the lock was lost")

    with pytest.raises(OpsError, match="the lock was lost"):
        rollout(fleet, lost).serve(Result(NEW, OLD), Expected(DAGS), Expected(DAGS))
    assert fleet.flips == []


def test_host_that_cannot_copy_stops_before_the_flip() -> None:
    fleet = Fleet()
    fleet.warmed = [Warmed("sched1", reachable=True), Warmed("worker1", reachable=True, error="it is full")]
    with pytest.raises(OpsError, match=r"worker1: it is full.*nothing was changed"):
        rollout(fleet).warm(Result(NEW, OLD))


def test_host_that_is_away_is_a_warning() -> None:
    fleet = Fleet()
    fleet.warmed = [Warmed("sched1", reachable=True), Warmed("worker1", reachable=False, error="no login")]
    result = Result(NEW, OLD)
    rollout(fleet).warm(result)
    assert result.warnings == [f"worker1 did not answer and will copy {NEW} on return"]


def test_fleet_that_is_away_stops_before_the_flip() -> None:
    fleet = Fleet()
    fleet.warmed = [Warmed("sched1", reachable=False, error="no login")]
    with pytest.raises(OpsError, match=r"no host answers.*type: ops status --env prod"):
        rollout(fleet).warm(Result(NEW, OLD))


def test_watch_sees_a_regression_and_takes_the_release_back() -> None:
    fleet = Fleet()
    worse = HEALTHY | {"failed": 4, "succeeded": 4, "failed_dags": ["a"]}
    fleet.health_now = iter([HEALTHY, HEALTHY, worse])
    with pytest.raises(RolledBackError, match=r"since the flip 4 tasks failed \(a\), 50%"):
        serve(fleet, Watch(60, HEALTHY))
    assert fleet.flips == [NEW, OLD]


def test_watch_ends_after_its_time() -> None:
    fleet = Fleet()
    fleet.health_now = iter([HEALTHY] * 12)
    serve(fleet, Watch(60, HEALTHY))
    assert fleet.now == pytest.approx(62, abs=1)


def test_lost_look_is_no_reason_to_take_a_release_back() -> None:
    fleet = Fleet()
    fleet.answer = lambda release: served(release) if int(fleet.now) % 3 else lose()
    fleet.health_now = iter([HEALTHY, AWAY, AWAY, *[HEALTHY] * 9])

    def lose() -> dict[str, Any]:
        raise AWAY

    assert not serve(fleet, Watch(60, HEALTHY)).rolled_back
    assert fleet.flips == [NEW]


def test_look_that_is_lost_at_the_end_is_made_up_for() -> None:
    fleet = Fleet()
    fleet.health_now = iter([*[HEALTHY] * 10, *[AWAY] * 8, HEALTHY])
    assert not serve(fleet, Watch(60, HEALTHY)).rolled_back


def test_release_that_nobody_can_watch_stays_and_that_is_said() -> None:
    fleet = Fleet()
    fleet.health_now = iter([HEALTHY, *[AWAY] * 30])
    with pytest.raises(UnwatchedError, match=rf"{NEW} serves, but nobody could see.*away.*--env prod") as seen:
        serve(fleet, Watch(60, HEALTHY))
    assert fleet.flips == [NEW]
    assert (seen.value.exit_code, seen.value.of_the_commit) == (ExitCode.UNREACHABLE, False)


def test_way_back_that_nobody_can_see_is_not_called_failed() -> None:
    fleet = Fleet()

    def answer(_release: str) -> dict[str, Any]:
        if fleet.current == NEW and fleet.now < 20:
            return served(NEW, errors=["a.py"])
        raise AWAY

    fleet.answer = answer
    with pytest.raises(UnseenError, match=rf"a\.py cannot be imported.*{OLD} is current again, but nobody could see"):
        serve(fleet)


def test_failure_that_the_database_shows_is_the_commits_own() -> None:
    fleet = Fleet()
    fleet.answer = lambda release: served(release, errors=["a.py"] if release == NEW else [])
    with pytest.raises(RolledBackError) as failure:
        serve(fleet)
    assert failure.value.of_the_commit


def test_import_error_of_a_file_that_the_release_does_not_have_is_none_of_its_own() -> None:
    """The dag-processors forget such a file at their next look, which may be long after the flip."""
    fleet = Fleet()
    fleet.answer = lambda release: served(release, errors=["a.py", "new.py"] if release == NEW else ["new.py"])
    old = Expected(DAGS, tree=frozenset({"a.py", "b.py"}))
    result = Result(NEW, OLD)
    with pytest.raises(RolledBackError, match=f"{OLD} serves again"):
        rollout(fleet).serve(result, Expected(DAGS, tree=frozenset({"a.py", "b.py", "new.py"})), old)
    assert result.rolled_back


@pytest.mark.parametrize("manifest", [{"digests": {"a.py": "x", "b.zip": "y"}}, {"files": {"a.py": {}, "b.zip": {}}}])
def test_files_of_a_release_are_those_of_its_manifest(manifest: dict[str, Any]) -> None:
    release = Expected.of(manifest)
    assert [release.has(file) for file in ("a.py", "b.zip/inner.py", "c.py")] == [True, True, False]
    assert Expected.of({}).has("c.py")
