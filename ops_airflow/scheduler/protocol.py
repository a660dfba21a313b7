"""What a lease keeper does next: a state machine without clock, socket or process of its own.

Events go in with the time at which they are handled, actions come out; the keeper (keeper.py) and the simulation
(tests/simulation) run this same code. Times are seconds of one monotonic clock, never a date.

The rules that keep an old scheduler from writing after a new one began are few, and the simulation breaks each:

1. The lease ends, for its holder, `ttl - margin` after the last successful renewal was *sent*.
2. At that end, and when a renewal is refused, the scheduler is killed.
3. A scheduler starts only after fence() of its own epoch has answered, and while the lease lasts.
4. One epoch, one scheduler: after its death the lease is given back, never used again.
5. The lease is given back only when the scheduler is dead.
6. The login is asked back only as standby with no scheduler, for the epoch that was seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(StrEnum):
    """What this host's keeper is."""

    STANDBY = "standby"
    FENCING = "fencing"
    ACTIVE = "active"
    DEMOTING = "demoting"


class Verb(StrEnum):
    """The functions of schema ops that a keeper calls."""

    ACQUIRE = "acquire"
    FENCE = "fence"
    RENEW = "renew"
    RELEASE = "release"
    READMIT = "readmit"


@dataclass(frozen=True)
class Timing:
    """Seconds, all of them."""

    ttl: float = 6.0
    # Kept back from the ttl for the kill itself and for clocks that run at different speeds.
    margin: float = 1.0
    renew: float = 1.0
    poll: float = 0.25
    retry: float = 0.25
    call_timeout: float = 2.0
    fence_timeout: float = 3.5
    # After its scheduler died, so that another host gets the lease; doubled each time it crashes young.
    backoff: float = 3.0
    backoff_most: float = 24.0
    young: float = 30.0
    start: float = 60.0
    stall: float = 30.0
    drain: float = 30.0


# Events


@dataclass(frozen=True)
class Tick:
    """Time has passed; nothing else has happened."""


@dataclass(frozen=True)
class Answered:
    """The outstanding call returned."""

    answer: Mapping[str, Any]


@dataclass(frozen=True)
class Failed:
    """The outstanding call failed or took too long, and its session is closed: whether it took effect is unknown."""

    error: str = ""


@dataclass(frozen=True)
class Notified:
    """The database says that the lease has changed."""


@dataclass(frozen=True)
class Progressed:
    """The scheduler finished a loop; all it queued until `sent_through` (its host's date, as s) is at the broker."""

    sent_through: float | None = None


@dataclass(frozen=True)
class SchedulerDied:
    """The scheduler process and all its children are dead."""

    why: str = ""


@dataclass(frozen=True)
class ShutDown:
    """The keeper shall end; its scheduler first."""


Event = Tick | Answered | Failed | Notified | Progressed | SchedulerDied | ShutDown


# Actions


@dataclass(frozen=True)
class Call:
    """Call a function; report Answered or, at `deadline` at the latest, Failed."""

    verb: Verb
    deadline: float
    epoch: int = 0
    willing: bool = True
    sent_through: float | None = None
    why: str = ""
    successor: str | None = None


@dataclass(frozen=True)
class Start:
    """Start the scheduler; it sends again what was queued after `resend_after` and may never have been sent."""

    epoch: int
    resend_after: float | None


@dataclass(frozen=True)
class End:
    """Let the scheduler finish its loop and leave."""


@dataclass(frozen=True)
class Kill:
    """Kill the scheduler now."""

    why: str


@dataclass(frozen=True)
class Changed:
    """The state changed."""

    state: State
    epoch: int
    why: str


@dataclass(frozen=True)
class Leave:
    """Nothing is left to do: the keeper may exit."""


Action = Call | Start | End | Kill | Changed | Leave


@dataclass
class _Scheduler:
    started: float
    progressed: float | None = None
    end_by: float | None = None
    killed: bool = False


@dataclass
class _GiveBack:
    epoch: int
    why: str
    successor: str | None


@dataclass
class Protocol:
    """One keeper's state. `step` is its only way in; `wake_at` tells when it wants a Tick."""

    timing: Timing = field(default_factory=Timing)
    state: State = State.STANDBY
    # The newest epoch this keeper knows of; while it is not STANDBY, its own.
    epoch: int = 0
    deadline: float = 0.0
    renewed: float = 0.0
    holder: str | None = None
    sent_through: float | None = None
    wake_at: float = 0.0
    failure: str = ""

    _now: float = 0.0
    _call: Call | None = None
    _call_sent: float = 0.0
    _next_call: float = 0.0
    _scheduler: _Scheduler | None = None
    _give_back: _GiveBack | None = None
    _readmit: bool = False
    _notified: bool = False
    _renew_first: bool = False
    _resend_after: float | None = None
    _hand_over_to: str | None = None
    _kill_why: str = ""
    _unwilling_until: float = 0.0
    # Whether acquire() was answered since this keeper became a willing standby: then it stands in ops.keeper as ready.
    _recorded: bool = False
    _crashes: int = 0
    _lost: bool = False
    _leaving: bool = False
    _actions: list[Action] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether this keeper would take the lease now, and the database knows: hand_over() asks nobody else."""
        return self.state is State.STANDBY and self._willing and self._recorded and not self.failure

    @property
    def _willing(self) -> bool:
        return not self._leaving and self._now >= self._unwilling_until

    def step(self, now: float, event: Event) -> list[Action]:
        """Handle one event; return what is to be done, in that order."""
        self._now = now
        match event:
            case Answered(answer):
                self._answered(answer)
            case Failed(error):
                self._failed(error)
            case Notified():
                self._notified, self._next_call = True, now
            case Progressed(sent_through):
                self._progressed(sent_through)
            case SchedulerDied(why):
                self._scheduler_died(why)
            case ShutDown():
                self._shut_down()
            case Tick():
                pass
        self._watch_lease()
        self._watch_scheduler()
        self._call_if_due()
        self._set_alarm()
        actions, self._actions = self._actions, []
        return actions

    # Answers

    def _answered(self, answer: Mapping[str, Any]) -> None:
        call, self._call = self._call, None
        self.failure = ""
        if call is None:
            return
        match call.verb:
            case Verb.ACQUIRE:
                self._recorded = call.willing
                self._acquire_answered(answer)
            case Verb.FENCE:
                self._fence_answered(answer)
            case Verb.RENEW:
                self._renew_answered(answer)
            case Verb.RELEASE:
                self._give_back = None
                self._next_call = self._now
            case Verb.READMIT:
                self._readmit = False
                self._next_call = self._now + self.timing.poll
        if self._notified or self._give_back:
            # What came while the call was under way counts: its answer may be the older of the two.
            self._next_call = self._now

    def _acquire_answered(self, answer: Mapping[str, Any]) -> None:
        self.epoch, self.holder = answer["epoch"], answer["holder"]
        if not answer["granted"]:
            self._readmit = not answer["admitted"]
            self._next_call = self._now if self._readmit else self._now + self.timing.poll
            return
        self._extend_lease()
        self._renew_first, self._hand_over_to, self.sent_through = False, None, None
        self._change(State.FENCING, answer.get("why", ""))
        self._next_call = self._now
        if self._leaving:
            self._step_down("shutting down")

    def _fence_answered(self, answer: Mapping[str, Any]) -> None:
        if not answer["held"]:
            self._lose("the lease was lost while fencing")
        elif self.state is State.FENCING and self._now < self.deadline:
            self._scheduler = _Scheduler(started=self._now)
            self._change(State.ACTIVE, "fenced")
            self._actions.append(Start(self.epoch, answer.get("resend_after")))
            self._next_call = self._now

    def _renew_answered(self, answer: Mapping[str, Any]) -> None:
        if not answer["held"]:
            self._lose("the lease was lost")
            return
        self._extend_lease()
        self._renew_first = False
        self._next_call = self._call_sent + self.timing.renew
        if self.state is State.FENCING:
            self._next_call = self._now
        elif self.state is State.ACTIVE and answer.get("hand_over_to"):
            self._hand_over_to = answer["hand_over_to"]
            self._end_scheduler(f"handing over to {self._hand_over_to}")

    def _extend_lease(self) -> None:
        # Rule 1: the server counted from some moment after the request was sent, so from then on is always earlier.
        self.deadline = self._call_sent + self.timing.ttl - self.timing.margin
        self.renewed = self._call_sent

    def _failed(self, error: str) -> None:
        # A fence that failed took its time. One that succeeds is never put off, however slow the database.
        self._renew_first = self._call is not None and self._call.verb is Verb.FENCE
        self._call = None
        self.failure = error or "no answer"
        self._next_call = self._now + self.timing.retry
        if self._leaving:
            # What could not be given back expires.
            self._give_back = None

    # The scheduler

    def _progressed(self, sent_through: float | None) -> None:
        if self._scheduler:
            self._scheduler.progressed = self._now
            self.sent_through = sent_through

    def _scheduler_died(self, why: str) -> None:
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is None:
            return
        if self._hand_over_to and not scheduler.killed:
            why = f"handed over to {self._hand_over_to}"
        crashed = scheduler.end_by is None and not self._lost
        young = self._now - scheduler.started < self.timing.young
        self._crashes = self._crashes + 1 if crashed and young else 0
        backoff = self.timing.backoff * 2 ** max(0, self._crashes - 1)
        self._unwilling_until = self._now + min(backoff, self.timing.backoff_most)
        # Rule 5: here, and nowhere else, is the lease given back after a scheduler has run.
        self._step_down(self._kill_why or why)

    def _step_down(self, why: str) -> None:
        self._give_back = _GiveBack(self.epoch, why, self._hand_over_to)
        self._hand_over_to, self._kill_why, self._lost = None, "", False
        self.holder, self._recorded = None, False
        self._next_call = self._now
        self._change(State.STANDBY, why)

    def _end_scheduler(self, why: str) -> None:
        if self._scheduler and self._scheduler.end_by is None:
            self._scheduler.end_by = self._now + self.timing.drain
            self._change(State.DEMOTING, why)
            self._actions.append(End())

    def _kill_scheduler(self, why: str) -> None:
        if self._scheduler and not self._scheduler.killed:
            self._scheduler.killed = True
            self._kill_why = why
            if self.state is not State.DEMOTING:
                self._change(State.DEMOTING, why)
            self._actions.append(Kill(why))

    def _lose(self, why: str) -> None:
        self.deadline, self._lost = self._now, True
        if self._scheduler:
            self._kill_scheduler(why)
        elif self.state is State.FENCING:
            self._step_down(why)

    def _shut_down(self) -> None:
        self._leaving, self._next_call = True, self._now
        self._end_scheduler("shutting down")
        if self.state is State.FENCING:
            self._step_down("shutting down")

    def _watch_lease(self) -> None:
        if self._now < self.deadline:
            return
        if self._scheduler:
            self._lost = True
            self._kill_scheduler("the lease could not be renewed in time")
        elif self.state is State.FENCING and self._call is None:
            self._step_down("the lease ran out while fencing")

    def _watch_scheduler(self) -> None:
        limit = self._scheduler_limit()
        if limit is not None and self._now >= limit[0]:
            self._kill_scheduler(limit[1])

    def _scheduler_limit(self) -> tuple[float, str] | None:
        scheduler = self._scheduler
        if scheduler is None or scheduler.killed:
            return None
        if scheduler.end_by is not None:
            return scheduler.end_by, "the scheduler did not end its loop in time"
        if scheduler.progressed is None:
            return scheduler.started + self.timing.start, "the scheduler did not begin to work in time"
        return scheduler.progressed + self.timing.stall, "the scheduler's loop stands still"

    # Calls

    def _call_if_due(self) -> None:
        if self._call is not None or self._now < self._next_call:
            return
        call = self._due_call()
        if call is not None:
            self._call, self._call_sent, self._notified = call, self._now, False
            self._actions.append(call)

    def _due_call(self) -> Call | None:
        by = self._now + self.timing.call_timeout
        if self.state is State.STANDBY:
            return self._standby_call(by)
        if self._now >= self.deadline or (self._scheduler and self._scheduler.killed):
            # Should the process not die of it, the lease runs out and the next holder fences this one.
            return None
        by = min(by, self.deadline)
        if self.state is State.FENCING and not self._renew_first:
            return Call(Verb.FENCE, min(self._now + self.timing.fence_timeout, self.deadline), self.epoch)
        return Call(Verb.RENEW, by, self.epoch, sent_through=self.sent_through)

    def _standby_call(self, by: float) -> Call | None:
        if self._give_back:
            back = self._give_back
            return Call(Verb.RELEASE, by, back.epoch, why=back.why, successor=back.successor)
        if self._leaving:
            self._actions.append(Leave())
            return None
        if self._readmit:
            return Call(Verb.READMIT, by, self.epoch)
        return Call(Verb.ACQUIRE, by, willing=self._willing)

    def _set_alarm(self) -> None:
        times = [self._call.deadline if self._call else self._next_call]
        if self.state is not State.STANDBY:
            times.append(self.deadline)
        if limit := self._scheduler_limit():
            times.append(limit[0])
        self.wake_at = min((time for time in times if time > self._now), default=self._now + self.timing.poll)

    def _change(self, state: State, why: str) -> None:
        self.state = state
        self._actions.append(Changed(state, self.epoch, why))
