import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HOLD = """
import sys
from pathlib import Path
from ops_agent.verbs import lock as operation
operation.SILENCE_SECONDS = float(sys.argv[2])
sys.exit(operation.hold(sys.argv[3], run_directory=Path(sys.argv[1]), audit_file=Path(sys.argv[1]) / "audit.jsonl"))
"""
HELD = {"held": True, "answers": True}
Ask = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def ask(tmp_path: Path, root: Path) -> Iterator[Ask]:
    """Start a process that asks for a lock; all are ended with the test."""
    started = []

    def start(verb: str, *, lock: str = "dags", silence_seconds: float = 30) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path), str(silence_seconds), lock],
            cwd=root,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdin is not None
        process.stdin.write(json.dumps({"who": "ann", "verb": verb}) + "\n")
        process.stdin.flush()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(5)


def answer(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    said: dict[str, object] = json.loads(process.stdout.readline())
    assert said.pop("event") == "lock"
    return said


def test_second_operation_is_refused_and_told_who_holds_the_lock(ask: Ask) -> None:
    assert answer(ask("deploy")) == HELD
    second = ask("rollback")
    refused = answer(second)
    assert refused["held"] is False
    assert isinstance(refused["holder"], dict)
    assert refused["holder"]["verb"] == "deploy"
    assert "since" in refused["holder"]
    assert second.wait(5) == 5


def test_locks_of_other_names_do_not_meet(ask: Ask) -> None:
    assert answer(ask("deploy")) == HELD
    assert answer(ask("vacuum", lock="metadata")) == HELD


@pytest.mark.parametrize("end", ["its input ends", "it is killed", "its input is silent"])
def test_lock_is_free_when_its_holder_is_gone(ask: Ask, end: str) -> None:
    first = ask("deploy", silence_seconds=0.3 if end == "its input is silent" else 30)
    assert answer(first) == HELD
    if end == "its input ends":
        assert first.stdin is not None
        first.stdin.close()
    elif end == "it is killed":
        first.kill()
    first.wait(5)
    assert answer(ask("rollback")) == HELD


@pytest.mark.parametrize(
    ("told", "result"), [('{"hosts": ["sched1"], "result": "done"}\n', "done"), ("", "interrupted")]
)
def test_audit_line_says_who_did_what_and_how_it_ended(ask: Ask, tmp_path: Path, told: str, result: str) -> None:
    process = ask("deploy")
    assert answer(process) == HELD
    process.communicate(f"\n{told}", timeout=5)
    (line,) = (tmp_path / "audit.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["who"], entry["verb"], entry["lock"], entry["result"]) == ("ann", "deploy", "dags", result)
    assert entry["since"] <= entry["until"]


def test_each_empty_line_is_answered_for_as_long_as_the_lock_is_held(ask: Ask) -> None:
    holder = ask("deploy")
    assert answer(holder) == HELD
    assert holder.stdin is not None
    for _ in range(3):
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert answer(holder) == {"held": True}


def test_holder_that_nobody_listens_to_any_more_gives_the_lock_up(ask: Ask, tmp_path: Path) -> None:
    holder = ask("deploy")
    assert answer(holder) == HELD
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdout.close()
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.wait(10) == 0
    assert json.loads((tmp_path / "audit.jsonl").read_text())["result"] == "interrupted"
