"""`ops deploy` and `ops rollback` from the words that are typed to the exit code, on a fleet of the test's own."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ops_cli import main
from ops_cli.commands import deploy, releases, rollback
from ops_cli.console.errors import OpsError
from ops_cli.dags.hosts import Warmed
from ops_cli.dags.source import Source
from ops_cli.fleet.agent import LockHeldError
from ops_cli.fleet.inventory import Inventory

OLD, NEW = "20260101T000000Z-aaaaaaa", "20260102T000000Z-bbbbbbb"


def report(*dag_ids: str, errors: int = 0) -> dict[str, Any]:
    dags = [
        {"dag_id": dag_id, "hash": "1", "file": f"{dag_id}.py", "files": [f"{dag_id}.py"], "tasks": []}
        for dag_id in dag_ids
    ]
    finding = {"file": "a.py", "line": 3, "rule": "import", "severity": "error", "message": "NameError: x"}
    return {"dags": dags, "findings": [finding] * errors, "warnings": 0}


class Held:
    hosts: ClassVar[list[str]] = []
    result = ""

    def check(self) -> None:
        return


class Fleet:
    """Serves what was flipped at once."""

    fleet = Inventory("lab", ())

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.current, self.previous = OLD, "20251231T000000Z-ccccccc"
        self.report, self.refused = report("a", "b"), False
        self.broken = ""
        self.unfinished: list[dict[str, Any]] = []
        self.manifests = {OLD: self.manifest(report("a", "gone")), self.previous: self.manifest(report("a"))}

    def manifest(self, validation: dict[str, Any], digest: str = "x") -> dict[str, Any]:
        return {"validation": validation, "digest": digest, "files": {"a.py": {"sha256": "old"}}, "links": {}}

    def health(self, _seconds: float) -> dict[str, Any]:
        return {"pools": {"default_pool": 128}}

    def all(self) -> dict[str, Any]:
        found = [
            {"id": release, "current": release == self.current} for release in sorted(self.manifests, reverse=True)
        ]
        return {"current": self.current, "previous": self.previous, "releases": found}

    def links(self) -> dict[str, Any]:
        return self.all()

    def show(self, release: str) -> dict[str, Any]:
        return self.manifests[release]

    def known(self, release: str) -> dict[str, Any]:
        return self.manifests.get(release, {})

    def validate(self, _archive: Path, known: dict[str, Any], *, keep: str) -> tuple[str, bool]:
        assert known == {"pools": {"default_pool": 128}}
        self.kept = keep
        self.calls.append("validate")
        return json.dumps(self.report), self.refused

    def signer(self) -> None:
        return

    def publish(self, packed: Source, report: dict[str, Any]) -> dict[str, Any]:
        # What the host has judged is what it publishes, with the report that it has made itself.
        assert (self.kept, report) == (packed.digest, self.report)
        self.calls.append("publish")
        origin = {"commit": packed.commit, "author": packed.author, "message": packed.message}
        self.manifests[NEW] = self.manifest(self.report, packed.digest) | origin
        return {"release": NEW}

    def warm(self, release: str) -> list[Warmed]:
        self.calls.append(f"warm {release}")
        return [Warmed("sched1", reachable=True, seconds=0.5, copied=True)]

    def flip(self, release: str) -> dict[str, Any]:
        self.calls.append(f"flip {release}")
        self.current, self.previous = release, self.current
        return {}

    def served(self, _release: str = "") -> dict[str, Any]:
        dags = self.known(self.current).get("validation", {"dags": []})["dags"]
        errors = [{"file": self.broken, "error": "NameError: x"}] if self.broken and self.current == NEW else []
        seen = [{"dag_id": dag["dag_id"], "file": dag["file"], "release": self.current} for dag in dags]
        return {
            "bundle_release": self.current,
            "dags": seen,
            "import_errors": errors,
            "unfinished_runs": self.unfinished,
        }


@pytest.fixture
def fleet(root: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    made = Fleet()

    @contextmanager
    def connected(_fleet: Inventory) -> Iterator[Fleet]:
        yield made

    @contextmanager
    def operation(_fleet: Inventory, verb: str, *, lock: str, reason: str) -> Iterator[Held]:
        assert lock == "dags"
        assert reason is not None
        made.calls.append(f"lock {verb}")
        yield Held()

    monkeypatch.setenv("OPS_HOME", str(root))
    for module in (deploy, rollback, releases):
        monkeypatch.setattr(module, "connected", connected)
        monkeypatch.setattr(module, "operation", operation)
    return made


@pytest.fixture
def dags(tmp_path: Path) -> str:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "a.py").write_text("")
    return str(tmp_path / "dags")


def test_deploy_goes_all_the_way(fleet: Fleet, dags: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["deploy", dags, "--yes", "--format", "json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["release"], done["previous"], done["rolled_back"]) == (NEW, OLD, False)
    assert (done["added"], done["removed"], done["changed"]) == (["b"], ["gone"], ["a"])
    assert all(done[f"{step}_s"] is not None for step in ("validated", "published", "visible", "verified"))
    assert done["hosts"][0]["host"] == "sched1"
    assert fleet.calls == ["lock deploy", "validate", "publish", f"warm {NEW}", f"flip {NEW}"]


def test_refused_tree_is_never_published(fleet: Fleet, dags: str, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.report, fleet.refused = report(errors=1), True
    assert main.run(["deploy", dags, "--yes", "--format", "json"]) == 1
    said = capsys.readouterr()
    assert "a.py:3 import: NameError: x" in said.err
    assert json.loads(said.out)["published_s"] is None
    assert fleet.calls == ["lock deploy", "validate"]


def test_same_files_are_nothing_to_do(fleet: Fleet, dags: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["deploy", dags, "--yes"]) == 0
    assert main.run(["deploy", dags, "--yes"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert fleet.calls.count("publish") == 1


def test_dry_run_takes_no_lock_and_changes_nothing(fleet: Fleet, dags: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["deploy", dags, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "nothing was changed" in said.out
    assert "REMOVED gone" in said.err
    assert fleet.calls == ["validate"]


def test_deploy_that_nobody_agrees_to_changes_nothing(fleet: Fleet, dags: str) -> None:
    assert main.run(["deploy", dags]) == 2
    assert fleet.calls == ["lock deploy", "validate"]


def test_failure_after_the_flip_is_taken_back_and_exits_with_1(
    fleet: Fleet, dags: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops_cli.dags.rollout._SETTLE_SECONDS", 0.0)
    fleet.broken = "a.py"
    assert main.run(["deploy", dags, "--yes", "--format", "json"]) == 1
    said = capsys.readouterr()
    assert f"a.py cannot be imported: NameError: x; {OLD} serves again" in said.err
    assert json.loads(said.out)["rolled_back"] is True
    assert fleet.current == OLD


def test_lock_of_another_exits_with_5(dags: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def operation(*_: object, **__: object) -> Iterator[None]:
        raise LockHeldError("ada on ci has run ops deploy since 10:00")
        yield

    monkeypatch.setenv("OPS_HOME", str(root))
    monkeypatch.setattr(deploy, "operation", operation)
    assert main.run(["deploy", dags, "--yes"]) == 5


def test_rollback_serves_the_previous_release(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    before = fleet.previous
    assert main.run(["rollback", "--yes", "--format", "json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["release"], done["previous"], done["removed"]) == (before, OLD, ["gone"])
    assert fleet.calls == ["lock rollback", f"warm {before}", f"flip {before}"]


def test_rollback_to_what_serves_already_is_refused(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["rollback", OLD, "--yes"]) == 1
    assert f"{OLD} serves already" in capsys.readouterr().err
    assert fleet.calls == ["lock rollback"]


def test_rollback_from_a_release_that_is_gone_works(fleet: Fleet) -> None:
    before = fleet.previous
    fleet.current = "20260103T000000Z-ddddddd"
    assert main.run(["rollback", before, "--yes"]) == 0
    assert fleet.current == before


def test_dry_rollback_changes_nothing(fleet: Fleet) -> None:
    assert main.run(["rollback", "--dry-run"]) == 0
    assert fleet.calls == ["lock rollback"]


def move(fleet: Fleet, *runs: tuple[str, str | None, int]) -> None:
    """Have the tree's `a` lie in another file than the release that serves, with these runs unfinished."""
    fleet.report["dags"][0] |= {"file": "b.py", "files": ["b.py"]}
    fleet.unfinished = [{"dag_id": dag, "release": release, "runs": count} for dag, release, count in runs]


def test_dag_that_moves_away_from_its_runs_is_refused(
    fleet: Fleet, dags: str, capsys: pytest.CaptureFixture[str]
) -> None:
    move(fleet, ("a", OLD, 2), ("b", OLD, 1))
    assert main.run(["deploy", dags, "--yes"]) == 1
    said = capsys.readouterr().err
    assert f"a has 2 unfinished runs of {OLD}, where it is in a.py, and moves to b.py" in said
    assert "--force" in said
    assert fleet.calls == ["lock deploy", "validate"]


def test_dag_whose_runs_can_follow_may_move(fleet: Fleet, dags: str) -> None:
    move(fleet, ("a", None, 1), ("gone", OLD, 1))
    assert main.run(["deploy", dags, "--yes"]) == 0
    assert fleet.current == NEW


def test_forced_move_is_called_out_and_audited(
    fleet: Fleet, dags: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    audited: list[str] = []
    monkeypatch.setattr(Held, "result", property(lambda _: "", lambda _, text: audited.append(text)))
    move(fleet, ("a", OLD, 1))
    assert main.run(["deploy", dags, "--yes", "--force"]) == 0
    assert "warning: a has 1 unfinished run of" in capsys.readouterr().err
    assert audited[-1] == f"done: {NEW} after {OLD}, forced"


def test_run_that_begins_while_the_release_is_copied_stops_the_move(
    fleet: Fleet, dags: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(fleet)

    def warm(_release: str) -> list[Warmed]:
        move(fleet, ("a", OLD, 1))
        return [Warmed("sched1", reachable=True)]

    monkeypatch.setattr(fleet, "warm", warm)
    assert main.run(["deploy", dags, "--yes"]) == 1
    assert fleet.current == OLD


def test_rollback_may_bring_a_dag_back_to_where_its_runs_began(fleet: Fleet) -> None:
    fleet.manifests[OLD]["validation"]["dags"][0] |= {"file": "moved.py", "files": ["moved.py"]}
    fleet.unfinished = [{"dag_id": "a", "release": fleet.previous, "runs": 1}]
    before = fleet.previous
    assert main.run(["rollback", "--yes"]) == 0
    assert fleet.current == before
    fleet.unfinished = [{"dag_id": "a", "release": before, "runs": 1}]
    assert main.run(["rollback", OLD, "--yes"]) == 1
    assert main.run(["rollback", OLD, "--yes", "--force"]) == 0


@pytest.mark.parametrize(
    "words",
    [["deploy", "{dags}"], ["rollback"], ["validate", "{dags}"], ["releases"]]
    + [["releases", *verb] for verb in (["list"], ["show", "x"], ["diff", "x", "y"], ["prune", "--keep", "1"])],
)
def test_environment_may_follow_the_verb(
    words: list[str], dags: str, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fleet.current == OLD
    assert main.run([word.format(dags=dags) for word in words] + ["--env", "mars"]) == 2
    assert "no environment 'mars'" in capsys.readouterr().err


def test_timer_deploys_each_head_once(
    fleet: Fleet, dags: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    def tick() -> int:
        fleet.calls.clear()
        words = ["--git-url", f"file://{tmp_path}", "--git-ref", "main", "--if-moved", str(tmp_path / "head.json")]
        return main.run(["deploy", "dags", "--yes", *words])

    git("init", "-q", "-b", "main", ".")
    git("add", dags)
    git("commit", "-q", "-m", "one")
    assert (tick(), fleet.current) == (0, NEW)
    capsys.readouterr()
    assert (tick(), fleet.calls) == (0, [])
    assert capsys.readouterr() == ("", "")
    assert main.run(["rollback", "--yes"]) == 0
    assert (tick(), fleet.calls, fleet.current) == (0, [], OLD)
    Path(dags, "a.py").write_text("1 / 0")
    git("commit", "-q", "-a", "-m", "two")
    fleet.report, fleet.refused = report(errors=1), True
    assert (tick(), fleet.calls) == (1, ["lock deploy", "validate"])
    assert (tick(), fleet.calls) == (1, [])
    assert "is not tried again: the gate refuses it" in capsys.readouterr().err


def test_try_that_failed_before_the_flip_is_made_again_with_what_it_published(
    fleet: Fleet, dags: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [Warmed("worker1", reachable=True, error="its disk is full")]
    with monkeypatch.context() as patched:
        patched.setattr(fleet, "warm", lambda _: full)
        assert main.run(["deploy", dags, "--yes"]) == 1
    fleet.calls.clear()
    assert main.run(["deploy", dags, "--yes"]) == 0
    assert (fleet.current, "publish" in fleet.calls) == (NEW, False)
    fleet.calls.clear()
    assert main.run(["rollback", "--yes"]) == 0
    assert main.run(["deploy", dags, "--yes", "--message", "Once more"]) == 0
    assert "publish" in fleet.calls


def test_error_of_a_host_is_one_line(fleet: Fleet, dags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> dict[str, Any]:
        raise OpsError("sched1: the DAG share cannot be written: it is full")

    monkeypatch.setattr(fleet, "publish", full)
    assert main.run(["deploy", dags, "--yes"]) == 1
    assert fleet.current == OLD
