"""After all stories: every run that Airflow accepted has ended in success, and every task started exactly once."""

from tests.chaos import proof
from tests.chaos.lab import Database, until
from tests.chaos.load import Load, harmed, marked_twice, markers, started_once, unfinished

# The 60 s tasks that are running, and those that wait for their slots.
DEADLINE_SECONDS = 300


def test_everything_that_was_accepted_ran_once(database: Database, load: Load) -> None:
    load.__exit__()
    until(lambda: not unfinished(database, load), DEADLINE_SECONDS, "every accepted run to succeed", every=2)
    assert harmed(database, load.began) == []
    assert marked_twice() == []
    tasks = {task for what, task in markers() if what == "end"}
    assert started_once(database, load.began) == len(tasks) > 0


def test_no_scheduler_wrote_beside_another(load: Load) -> None:
    found = proof.sessions(load.began, load.shared)
    assert len({session.epoch for session in found if session.writes}) > 1
    assert proof.nameless(found) == []
    assert proof.overlaps(found) == []
