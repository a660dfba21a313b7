"""The proof that no two schedulers wrote side by side sees it when they did."""

from datetime import UTC, datetime

import pytest

from tests.chaos import proof

BEGAN = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC).timestamp()


def line(second: float, session: str, host: str, text: str, epoch: int | None = None) -> str:
    app = "[unknown]" if epoch is None else f"airflow-scheduler epoch {epoch}"
    return (
        f"2026-11-20 10:00:{second:06.3f} UTC [7] {session} scheduler_{host}@airflow app={app} host=10.77.0.31 {text}"
    )


OLD = [
    line(1, "a.1", "sched1", "LOG:  connection authorized: user=scheduler_sched1 database=airflow"),
    line(2, "a.1", "sched1", "LOG:  statement: UPDATE job SET latest_heartbeat = now()", 4),
    line(3, "a.1", "sched1", "FATAL:  terminating connection due to administrator command", 4),
]
END = line(3.001, "a.1", "sched1", "LOG:  disconnection: session time: 0:00:02.001 user=scheduler_sched1", 4)
NEW = line(3.5, "b.1", "sched2", "LOG:  statement: INSERT INTO job VALUES (1)", 5)


def test_session_that_ended_before_the_next_epoch_wrote_is_no_overlap() -> None:
    found = proof.parse([*OLD, END, NEW], BEGAN)
    assert [(session.login, session.epoch, len(session.writes)) for session in found] == [
        ("scheduler_sched1", 4, 1),
        ("scheduler_sched2", 5, 1),
    ]
    assert (proof.overlaps(found), proof.nameless(found)) == ([], [])


@pytest.mark.parametrize("end", [[], [END.replace("10:00:03.001", "10:00:03.600")]])
def test_session_that_outlives_the_next_epochs_first_write_is_seen(end: list[str]) -> None:
    (overlap,) = proof.overlaps(proof.parse([*OLD, NEW, *end], BEGAN))
    assert overlap.startswith("epoch 4 (scheduler_sched1) ended ")


def test_statement_that_the_fence_refused_is_no_write() -> None:
    refused = [
        line(4, "a.2", "sched1", "LOG:  statement: UPDATE task_instance SET state = 'queued'", 4),
        line(4.001, "a.2", "sched1", "ERROR:  permission denied for table task_instance", 4),
    ]
    found = proof.parse([*OLD, END, NEW, *refused], BEGAN)
    assert proof.overlaps(found) == []
    assert [session.refused for session in found] == [0, 0, 1]


def test_session_without_an_epoch_and_lines_from_before_are_told_apart() -> None:
    nameless = [line(2, "c.1", "sched1", "LOG:  statement: DELETE FROM callback")]
    assert len(proof.nameless(proof.parse(nameless, BEGAN))) == 1
    assert proof.parse(nameless, BEGAN + 30) == []


def test_writes_of_a_time_when_several_may_schedule_prove_nothing() -> None:
    nameless = line(2, "c.1", "sched1", "LOG:  statement: DELETE FROM callback")
    found = proof.parse([nameless, nameless.replace("10:00:02", "10:00:09")], BEGAN, [(BEGAN + 1, BEGAN + 3)])
    assert [len(session.writes) for session in found] == [1]
