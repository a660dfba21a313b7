"""Every safety rule, taken away one at a time: what the simulation must notice.

Three more are belts beside braces, and without them nothing breaks: NOLOGIN (even the right to connect comes with
membership, which is revoked), the epoch that readmit() compares, and that no scheduler starts on a lease that is over
(it would be killed in the same step).
"""

from collections.abc import Mapping
from typing import Any

from ops_airflow.scheduler import protocol as p


class CountsFromTheReply(p.Protocol):
    def _extend_lease(self) -> None:
        super()._extend_lease()
        self.deadline = self._now + self.timing.ttl - self.timing.margin


class NeverDemotesItself(p.Protocol):
    def _watch_lease(self) -> None:
        pass


class KeepsNoMargin(p.Protocol):
    def _extend_lease(self) -> None:
        super()._extend_lease()
        self.deadline = self._call_sent + self.timing.ttl * 1.2


class IgnoresARefusedRenewal(p.Protocol):
    def _lose(self, why: str) -> None:
        if self._scheduler:
            self.deadline = self._now + self.timing.ttl
        else:
            super()._lose(why)


class StartsWithoutFencing(p.Protocol):
    def _acquire_answered(self, answer: Mapping[str, Any]) -> None:
        super()._acquire_answered(answer)
        if self.state is p.State.FENCING:
            self._fence_answered({"held": True})


class GivesBackBeforeTheSchedulerIsDead(p.Protocol):
    def _end_scheduler(self, why: str) -> None:
        super()._end_scheduler(why)
        self._step_down(why)


class StartsTwiceInOneEpoch(p.Protocol):
    def _scheduler_died(self, why: str) -> None:  # noqa: ARG002
        if self._scheduler:
            self._scheduler = p._Scheduler(started=self._now)  # noqa: SLF001
            self._actions.append(p.Start(self.epoch, None))


class AsksTheLoginBackTooEarly(p.Protocol):
    def _due_call(self) -> p.Call | None:
        if self.state is p.State.DEMOTING and self._lost:
            return p.Call(p.Verb.READMIT, self._now + self.timing.call_timeout, self.epoch + 1)
        return super()._due_call()


NOTHING: frozenset[str] = frozenset()
MUTATIONS: dict[str, tuple[type[p.Protocol], frozenset[str]]] = {
    "the holder counts its lease from the reply": (CountsFromTheReply, NOTHING),
    "the holder never demotes itself": (NeverDemotesItself, NOTHING),
    "the holder keeps no margin": (KeepsNoMargin, NOTHING),
    "the holder ignores a refused renewal": (IgnoresARefusedRenewal, NOTHING),
    "a scheduler starts before the fence": (StartsWithoutFencing, NOTHING),
    "the lease is given back before the scheduler is dead": (GivesBackBeforeTheSchedulerIsDead, NOTHING),
    "one epoch starts two schedulers": (StartsTwiceInOneEpoch, NOTHING),
    "the login is asked back before the scheduler is dead": (AsksTheLoginBackTooEarly, NOTHING),
    "a keeper hangs up on a call that failed": (p.Protocol, frozenset({"hang up"})),
    "a scheduler outlives its keeper": (p.Protocol, frozenset({"orphan"})),
    "acquire() does not raise the epoch": (p.Protocol, frozenset({"epoch"})),
    "acquire() does not wait for the lease to expire": (p.Protocol, frozenset({"expiry"})),
    "acquire() does not ask whether the session is gone": (p.Protocol, frozenset({"gone"})),
    "acquire() leaves the right to write": (p.Protocol, frozenset({"revoke"})),
    "fence() ends no sessions": (p.Protocol, frozenset({"terminate"})),
    "fence() acts twice": (p.Protocol, frozenset({"once"})),
    "renew() does not compare the epoch": (p.Protocol, frozenset({"renew"})),
}
