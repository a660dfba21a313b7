from typing import Any

import pytest

from ops_airflow.scheduler import protocol as p

TIMING = p.Timing()


class Bench:
    """Drives a protocol by hand; `now` is its clock."""

    def __init__(self) -> None:
        self.protocol = p.Protocol(TIMING)
        self.now = 100.0

    def step(self, event: p.Event | None = None, after: float = 0.0) -> list[p.Action]:
        self.now += after
        return self.protocol.step(self.now, event or p.Tick())

    def answer(self, after: float = 0.01, **answer: Any) -> list[p.Action]:
        return self.step(p.Answered(answer), after)

    def activate(self) -> None:
        self.step()
        self.answer(granted=True, epoch=7, holder="me", admitted=True)
        actions = self.answer(held=True, resend_after=12.5)
        assert p.Start(7, 12.5) in actions
        self.answer(held=True, hand_over_to=None)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def calls(actions: list[p.Action]) -> list[p.Verb]:
    return [action.verb for action in actions if isinstance(action, p.Call)]


def kills(actions: list[p.Action]) -> list[str]:
    return [action.why for action in actions if isinstance(action, p.Kill)]


def test_standby_asks_for_the_lease_again_after_the_poll_interval(bench: Bench) -> None:
    assert calls(bench.step()) == [p.Verb.ACQUIRE]
    assert calls(bench.answer(granted=False, epoch=3, holder="other", admitted=True)) == []
    assert calls(bench.step(after=TIMING.poll)) == [p.Verb.ACQUIRE]


def test_standby_is_ready_when_the_database_has_been_told(bench: Bench) -> None:
    bench.step()
    assert not bench.protocol.ready, "it has asked, and knows of no answer"
    bench.answer(granted=False, epoch=3, holder="other", admitted=True)
    assert bench.protocol.ready
    bench.step(after=TIMING.poll)
    bench.step(p.Failed("no route to host"), 0.1)
    assert not bench.protocol.ready


def test_standby_that_was_active_is_ready_when_the_database_has_been_told(bench: Bench) -> None:
    bench.activate()
    bench.step(p.SchedulerDied("died"), 60)
    bench.answer(released=True)
    assert not bench.protocol.ready
    bench.answer(granted=False, epoch=8, holder="other", admitted=True)
    assert not bench.protocol.ready, "it said that it is not willing yet"
    bench.step(after=TIMING.backoff)
    assert not bench.protocol.ready, "it has asked again, and knows of no answer"
    bench.answer(granted=False, epoch=8, holder="other", admitted=True)
    assert bench.protocol.ready


def test_standby_told_of_a_change_asks_at_once(bench: Bench) -> None:
    bench.step()
    bench.answer(granted=False, epoch=3, holder="other", admitted=True)
    assert calls(bench.step(p.Notified())) == [p.Verb.ACQUIRE]


def test_standby_told_of_a_change_during_a_call_asks_once_more(bench: Bench) -> None:
    bench.step()
    bench.step(p.Notified())
    assert calls(bench.answer(granted=False, epoch=3, holder="other", admitted=True)) == [p.Verb.ACQUIRE]


def test_fenced_standby_asks_its_login_back_for_the_epoch_it_saw(bench: Bench) -> None:
    bench.step()
    actions = bench.answer(granted=False, epoch=3, holder="other", admitted=False)
    assert [(a.verb, a.epoch) for a in actions if isinstance(a, p.Call)] == [(p.Verb.READMIT, 3)]


def test_scheduler_starts_only_when_the_fence_has_answered(bench: Bench) -> None:
    bench.step()
    actions = bench.answer(granted=True, epoch=7, holder="me", admitted=True)
    assert (calls(actions), [a for a in actions if isinstance(a, p.Start)]) == ([p.Verb.FENCE], [])
    assert bench.protocol.state is p.State.FENCING


def test_fence_that_fails_is_tried_again_after_a_renewal(bench: Bench) -> None:
    bench.step()
    bench.answer(granted=True, epoch=7, holder="me", admitted=True)
    bench.step(p.Failed("sessions would not end"), after=2.0)
    assert calls(bench.step(after=TIMING.retry)) == [p.Verb.RENEW]
    assert calls(bench.answer(held=True, hand_over_to=None)) == [p.Verb.FENCE]


def test_fence_is_not_put_off_by_a_database_slower_than_a_renewal_is_due(bench: Bench) -> None:
    bench.step()
    assert calls(bench.answer(after=1.4, granted=True, epoch=7, holder="me", admitted=True)) == [p.Verb.FENCE]


def test_lease_is_counted_from_when_the_renewal_was_sent(bench: Bench) -> None:
    bench.activate()
    bench.step(after=TIMING.renew)
    sent = bench.now
    bench.answer(after=1.9, held=True, hand_over_to=None)
    assert bench.protocol.deadline == sent + TIMING.ttl - TIMING.margin


def test_holder_that_cannot_renew_kills_its_scheduler_in_time(bench: Bench) -> None:
    bench.activate()
    deadline = bench.protocol.deadline
    while bench.now < deadline:
        actions = bench.step(p.Failed("no route"), after=min(0.5, deadline - bench.now))
    assert kills(actions) == ["the lease could not be renewed in time"]
    assert bench.protocol.state is p.State.DEMOTING


def test_refused_renewal_kills_the_scheduler_at_once(bench: Bench) -> None:
    bench.activate()
    bench.step(after=TIMING.renew)
    assert kills(bench.answer(held=False, hand_over_to=None)) == ["the lease was lost"]


def test_dead_scheduler_gives_the_lease_back_at_once_and_backs_off(bench: Bench) -> None:
    bench.activate()
    actions = bench.step(p.SchedulerDied("signal 9"))
    assert [(a.verb, a.epoch, a.why) for a in actions if isinstance(a, p.Call)] == [(p.Verb.RELEASE, 7, "signal 9")]
    [acquire] = [a for a in bench.answer(released=True) if isinstance(a, p.Call)]
    assert (acquire.verb, acquire.willing) == (p.Verb.ACQUIRE, False)
    bench.answer(granted=False, epoch=7, holder=None, admitted=True)
    [acquire] = [a for a in bench.step(after=TIMING.backoff) if isinstance(a, p.Call)]
    assert acquire.willing is True


def test_lease_of_a_scheduler_that_dies_during_a_renewal_is_given_back_with_its_answer(bench: Bench) -> None:
    bench.activate()
    assert calls(bench.step(after=TIMING.renew)) == [p.Verb.RENEW]
    assert calls(bench.step(p.SchedulerDied("the scheduler died of SIGKILL"))) == []
    assert calls(bench.answer(held=True, hand_over_to=None)) == [p.Verb.RELEASE]


def test_hand_over_ends_the_loop_keeps_renewing_and_names_the_successor(bench: Bench) -> None:
    bench.activate()
    bench.step(p.Notified())
    assert p.End() in bench.answer(held=True, hand_over_to="other")
    assert calls(bench.step(after=TIMING.renew)) == [p.Verb.RENEW]
    bench.answer(held=True, hand_over_to="other")
    [release] = [a for a in bench.step(p.SchedulerDied("exit 0"), after=0.2) if isinstance(a, p.Call)]
    assert (release.verb, release.successor, release.why) == (p.Verb.RELEASE, "other", "handed over to other")


def live_on(bench: Bench, seconds: float) -> list[str]:
    """Let every renewal succeed until something is killed, at most for so long."""
    end, found = bench.now + seconds, []
    while not found and bench.now < end:
        found = kills(bench.step(after=0.25)) + kills(bench.answer(held=True, hand_over_to=None))
    return found


def test_scheduler_that_does_not_end_its_loop_is_killed(bench: Bench) -> None:
    bench.activate()
    bench.step(p.ShutDown())
    assert live_on(bench, TIMING.drain - 1) == []
    assert live_on(bench, 2) == ["the scheduler did not end its loop in time"]


def test_scheduler_whose_loop_stands_still_is_killed(bench: Bench) -> None:
    bench.activate()
    bench.step(p.Progressed(1.0))
    assert live_on(bench, TIMING.stall - 1) == []
    assert live_on(bench, 2) == ["the scheduler's loop stands still"]
    # A process that not even SIGKILL ends must not keep the lease for ever.
    assert calls(bench.step(after=2.0)) == []


def test_keeper_that_shuts_down_gives_back_before_it_leaves(bench: Bench) -> None:
    bench.activate()
    bench.step(p.ShutDown())
    bench.answer(held=True, hand_over_to=None)
    assert calls(bench.step(p.SchedulerDied("exit 0"))) == [p.Verb.RELEASE]
    assert p.Leave() in bench.answer(released=True)


def test_keeper_that_shuts_down_does_not_keep_a_lease_that_comes_late(bench: Bench) -> None:
    bench.step()
    bench.step(p.ShutDown())
    assert calls(bench.answer(granted=True, epoch=7, holder="me", admitted=True)) == [p.Verb.RELEASE]
    assert p.Leave() in bench.step(p.Failed("no route"), after=0.5) + bench.step(after=TIMING.retry)
