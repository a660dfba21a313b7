"""What the failover bench makes of its rounds, without a lab."""

import pytest

from tests.bench import failover


def test_failed_round_leaves_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise OSError("pg1: ERROR:  sched2 is no\nhealthy standby")

    failure = failover.attempt(broken)
    assert failover.conclude({"scheduler killed: first new task": [0.5, 0.7]}, failure) == 1
    said = capsys.readouterr()
    assert "| scheduler killed: first new task (s) | 0.50 | 0.60 | 0.70 | 0.70 | 2 |" in said.out
    assert said.err == "failover bench: not all rounds were measured: pg1: ERROR: sched2 is no healthy standby\n"


@pytest.mark.parametrize(("seconds", "code"), [(0.5, 0), (3.0, 4)])
def test_table_of_whole_rounds_is_judged_by_its_targets(seconds: float, code: int) -> None:
    assert failover.conclude({"scheduler killed: first new task": [seconds]}, failover.attempt(lambda: None)) == code
