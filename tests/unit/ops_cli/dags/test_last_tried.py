import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ops_cli.commands.deploy import RefusedError
from ops_cli.console.errors import OpsError, UsageError
from ops_cli.dags import last_tried, source
from ops_cli.dags.last_tried import Memory, NotTriedAgainError
from ops_cli.dags.rollout import RolledBackError
from ops_cli.dags.stranded import StrandedError
from ops_cli.fleet.ssh import UnreachableError


def git(repository: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    done = subprocess.run(["git", "-C", str(repository), *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    made = tmp_path / "repository"
    made.mkdir()
    git(made, "init", "-q", "-b", "main", ".")
    git(made, "commit", "-q", "--allow-empty", "-m", "one")
    return made


@pytest.fixture
def memory(repository: Path, tmp_path: Path) -> Memory:
    return Memory(tmp_path / "head.json", f"file://{repository}", "main")


def test_head_is_that_of_the_branch_and_of_no_other_with_such_an_ending(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "-q", "-b", "feature/main")
    git(repository, "commit", "-q", "--allow-empty", "-m", "two")
    git(repository, "tag", "-a", "v1", "-m", "v1")
    url = f"file://{repository}"
    assert source.head(url, "main") == first
    assert source.head(url, "v1") == source.head(url, "") == git(repository, "rev-parse", "HEAD")
    with pytest.raises(OpsError, match="has no branch or tag gone"):
        source.head(url, "gone")


def test_repository_that_does_not_answer_is_an_error_without_its_password() -> None:
    with pytest.raises(OpsError, match="git ls-remote") as failure:
        source.head("http://ann:hunter2@127.0.0.1:1/x.git", "main")
    assert "hunter2" not in str(failure.value)


def test_every_head_is_tried_once(memory: Memory, repository: Path) -> None:
    assert memory.moved()
    memory.note(git(repository, "rev-parse", "HEAD"))
    assert not memory.moved()
    git(repository, "commit", "-q", "--allow-empty", "-m", "two")
    assert memory.moved()


def test_failure_is_told_again_until_the_head_moves(memory: Memory, repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    memory.note_failure(commit, RefusedError("the gate refuses it:\n  a.py"))
    with pytest.raises(NotTriedAgainError, match=f"{commit[:12]} of main failed at .* the gate refuses it:; push"):
        memory.moved()
    git(repository, "commit", "-q", "--allow-empty", "-m", "two")
    assert memory.moved()


@pytest.mark.parametrize(
    "error",
    [
        UnreachableError("sched1 is away"),
        OpsError("the lock on pg1 was lost"),
        StrandedError("let them end first"),
        RolledBackError("sched1 is away; the old one serves again", UnreachableError("sched1 is away")),
        KeyboardInterrupt(),
        ValueError(),
    ],
)
def test_what_another_try_may_mend_is_tried_again(error: BaseException, memory: Memory, repository: Path) -> None:
    memory.note_failure(git(repository, "rev-parse", "HEAD"), error)
    assert memory.moved()


def test_another_branch_is_another_head(memory: Memory, repository: Path) -> None:
    memory.note(git(repository, "rev-parse", "HEAD"))
    git(repository, "branch", "release")
    assert Memory(memory.path, memory.url, "release").moved()


def test_memory_has_no_password_and_damage_is_said(memory: Memory) -> None:
    secret = Memory(memory.path, "https://ann:hunter2@git.example.com/x.git", "main")
    secret.note("a" * 40)
    assert json.loads(memory.path.read_text())["url"] == "https://git.example.com/x.git"
    memory.path.write_text("{")
    with pytest.raises(OpsError, match=r"head\.json cannot be read"):
        memory.moved()


def test_memory_without_a_repository_is_a_mistake(tmp_path: Path) -> None:
    assert last_tried.memory(None, "", "") is None
    with pytest.raises(UsageError, match="--git-url"):
        last_tried.memory(tmp_path / "x", "", "main")


@pytest.mark.parametrize(("code", "words"), [(0, "airfleet-deploy-lab.service has failed"), (1, ""), (4, "")])
def test_failed_unit_of_this_machine_is_a_problem(monkeypatch: pytest.MonkeyPatch, code: int, words: str) -> None:
    def systemctl(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        assert command[-1] == "airfleet-deploy-lab.service"
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(subprocess, "run", systemctl)
    assert (words in last_tried.failed_here("lab")) if words else not last_tried.failed_here("lab")


def test_machine_without_systemd_has_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert last_tried.failed_here("lab") == ""
