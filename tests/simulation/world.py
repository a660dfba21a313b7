"""Two hosts, one database and the network between them, with everything that can go wrong, from one seed.

The hosts run ops_airflow.scheduler.protocol, the very code of the keeper. A schedule is one run: seconds of faults,
then peace, in which exactly one scheduler must come to work.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ops_airflow.scheduler import protocol as p
from tests.simulation.database import Database, Session

HOSTS = ("a", "b")
FAULTS_UNTIL = 14.0
PEACE_SECONDS = 45.0
LOCK_TIMEOUT_SECONDS = 1.0
TIMING = p.Timing(poll=0.5, start=8.0, stall=5.0, drain=4.0)


class BrokenError(AssertionError):
    """A safety or liveness property does not hold."""


@dataclass(eq=False)
class Child:
    """A scheduler process."""

    host: "Host"
    epoch: int
    alive: bool = True
    paused: bool = False
    hung: bool = False
    ending: bool = False
    session: Session | None = None


@dataclass(eq=False)
class Host:
    name: str
    speed: float
    offset: float
    protocol: p.Protocol | None = None
    child: Child | None = None
    paused: bool = False
    resumed_at: float = -1e9
    cut_off: bool = False
    life: int = 0
    session: Session | None = None
    # The session of a call that was given up, kept until another one has brought an answer.
    left: Session | None = None
    # When the last request of this host's keeper arrives: what it closes later arrives after it.
    in_transit_until: float = 0.0
    call: int = 0
    alarm: int = 0
    waiting: list[Callable[[], None]] = field(default_factory=list)


class World:
    """One schedule. `protocol_class` and `broken` let a mutation take rules away."""

    def __init__(
        self, seed: int, protocol_class: type[p.Protocol] = p.Protocol, broken: frozenset[str] = frozenset()
    ) -> None:
        self.random = random.Random(seed)  # noqa: S311
        self.protocol_class, self.broken = protocol_class, broken
        self.time = 0.0
        self.events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.order = itertools.count()
        # A calm schedule knows no fault but operators and slow commits; every schedule is calm in the end.
        self.calm = self.calm_now = self.random.random() < 0.1
        speed = self.random.uniform(0.99, 1.01)
        self.database = Database(lambda: self.time * speed + 1000, HOSTS, broken)
        self.database_up = True
        self.locked_until = 0.0
        self.expiry: dict[int, float] = {}
        self.began = 0
        self.writes: list[tuple[float, int]] = []
        self.hand_overs = 0
        self.slow = 0.02 if self.calm else self.random.choice((0.002, 0.02, 0.3, 0.6))
        self.hosts = {name: Host(name, self.random.uniform(0.99, 1.01), self.random.uniform(0, 1e5)) for name in HOSTS}

    def run(self) -> None:
        for host in self.hosts.values():
            self.at(self.random.random(), self.boot, host)
        self.plan_faults()
        self.play(FAULTS_UNTIL)
        self.heal()
        peace = FAULTS_UNTIL + PEACE_SECONDS
        while not self.works():
            if self.time > peace:
                states = [(h.name, h.protocol and h.protocol.state) for h in self.hosts.values()]
                raise BrokenError(f"liveness: no scheduler works {PEACE_SECONDS:g} s after the last fault: {states}")
            self.play(self.time + 1.0)
        self.play(self.time + 3.0)
        if self.calm and len(self.database.granted) > 1 + self.hand_overs:
            raise BrokenError(f"stability: {len(self.database.granted)} epochs without a fault")

    def at(self, delay: float, what: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self.events, (self.time + delay, next(self.order), what, arguments))

    def play(self, until: float) -> None:
        events = self.events
        while events and events[0][0] <= until:
            self.time, _, what, arguments = heapq.heappop(events)
            what(*arguments)
        self.time = until

    def works(self) -> bool:
        lease, now = self.database.lease, self.time
        recent = {epoch for time, epoch in self.writes[-20:] if time > now - 1.0}
        active = [h for h in self.hosts.values() if h.protocol and h.protocol.state is p.State.ACTIVE]
        return recent == {lease.epoch} and [h.name for h in active] == [lease.holder]

    # Faults

    def plan_faults(self) -> None:
        kinds = (
            self.crash_keeper, self.kill_child, self.power_off, self.pause, self.partition, self.restart_database,
            self.hang_child, self.ask_hand_over, self.cut_session, self.lock_lease,
        )  # fmt: skip
        for _ in range(self.random.randint(1, 5)):
            kind = self.random.choice((self.ask_hand_over, self.lock_lease) if self.calm else kinds)
            self.at(self.random.uniform(1.5, FAULTS_UNTIL), kind, self.hosts[self.random.choice(HOSTS)])

    def heal(self) -> None:
        self.calm_now, self.slow = True, min(self.slow, 0.1)
        for host in self.hosts.values():
            host.cut_off = False
            self.resume(host)
        self.database_up = True

    def crash_keeper(self, host: Host) -> None:
        if host.protocol is None:
            return
        self.bury(host)
        if host.session:
            self.hang_up(host, host.session)
        if host.left:
            self.hang_up(host, host.left)
        self.at(self.random.uniform(1, 4), self.boot, host)

    def power_off(self, host: Host) -> None:
        """No FIN reaches the server: the sessions stay until it has probed them in vain."""
        if host.protocol is None:
            return
        self.bury(host, fin=False)
        self.at(self.random.uniform(5, 12), self.boot, host)

    def bury(self, host: Host, *, fin: bool = True) -> None:
        host.protocol, host.paused, host.waiting = None, False, []
        host.life += 1
        child = host.child
        if child and child.alive and ("orphan" not in self.broken or not fin):
            self.at(self.random.uniform(0, 0.06), self.die, child, fin)

    def kill_child(self, host: Host) -> None:
        if host.child and host.child.alive:
            self.die(host.child)

    def hang_child(self, host: Host) -> None:
        if host.child:
            host.child.hung = True

    def pause(self, host: Host) -> None:
        """SIGSTOP, of the keeper, its scheduler, or both."""
        which = self.random.randrange(3)
        if which != 0:
            host.paused = host.protocol is not None
        if which != 1 and host.child:
            host.child.paused = True
        self.at(self.random.choice((0.5, 3.0, 8.0, 12.0)), self.resume, host)

    def resume(self, host: Host) -> None:
        if host.child and host.child.paused:
            host.child.paused = False
            self.at(0, self.child_loop, host.child)
        if not host.paused:
            return
        host.paused, host.resumed_at = False, self.time
        waiting, host.waiting = host.waiting, []
        for what in waiting:
            what()
        self.tell(host, host.life, p.Tick())

    def partition(self, host: Host) -> None:
        host.cut_off = True
        self.at(self.random.choice((0.5, 3.0, 8.0)), self.rejoin, host)

    def rejoin(self, host: Host) -> None:
        host.cut_off = False

    def cut_session(self, host: Host) -> None:
        if host.session:
            self.database.close_session(host.session)

    def restart_database(self, _: Host) -> None:
        self.database_up = False
        for host in self.hosts.values():
            if host.child:
                host.child.session = None
        self.database.restart()
        self.at(self.random.choice((0.5, 2.0, 9.0)), self.start_database)

    def start_database(self) -> None:
        self.database_up = True
        self.database.restart()

    def lock_lease(self, _: Host) -> None:
        """Somebody else's transaction holds the lease's row, or a renewal's commit waits for the disk."""
        self.locked_until = max(self.locked_until, self.time + self.random.uniform(0.5, 2.0))

    def ask_hand_over(self, host: Host) -> None:
        if self.database_up and self.time >= self.locked_until and self.database.hand_over(host.name):
            self.hand_overs += 1
            self.notify()

    # The network

    def delay(self) -> float:
        return self.random.expovariate(1 / self.slow) + 0.0005

    def send(self, host: Host, what: Callable[..., None], *arguments: Any, late: float = 0.0) -> float:
        """Deliver sooner or later, or never; what was sent before a partition may arrive long after it."""
        delay = self.delay() + late
        if host.cut_off or (not self.calm_now and self.random.random() < 0.01):
            if self.random.random() < 0.5:
                return self.time
            delay += self.random.choice((0.5, 5.0, 20.0)) * self.random.random()
        self.at(delay, what, *arguments)
        return self.time + delay

    def hang_up(self, host: Host, session: Session) -> None:
        self.at(max(self.delay(), host.in_transit_until - self.time + 0.001), self.database.close_session, session)

    # The keeper

    def boot(self, host: Host) -> None:
        if host.protocol is not None:
            return
        host.protocol, host.session, host.left = self.protocol_class(TIMING), None, None
        host.call += 1
        self.tell(host, host.life, p.Tick())

    def tell(self, host: Host, life: int, event: p.Event) -> None:
        if host.life != life or host.protocol is None:
            return
        if host.paused:
            host.waiting.append(lambda: self.tell(host, life, event))
            return
        actions = host.protocol.step(self.clock(host), event)
        for number, action in enumerate(actions):
            if not self.calm_now and isinstance(action, p.Start) and self.random.random() < 0.05:
                # Stopped between the decision and the deed.
                host.paused = True
                host.waiting.extend(lambda a=later: self.act(host, life, a) for later in actions[number:])  # type: ignore[misc]
                self.at(self.random.choice((0.5, 8.0)), self.resume, host)
                return
            self.act(host, life, action)
        host.alarm += 1
        self.at(max(0.0, (host.protocol.wake_at - self.clock(host)) / host.speed) + 1e-6, self.ring, host, host.alarm)

    def clock(self, host: Host) -> float:
        return self.time * host.speed + host.offset

    def ring(self, host: Host, alarm: int) -> None:
        if host.alarm == alarm:
            self.tell(host, host.life, p.Tick())

    def act(self, host: Host, life: int, action: p.Action) -> None:
        if host.life != life:
            return
        match action:
            case p.Call():
                self.call(host, action)
            case p.Start(epoch, _):
                self.start(host, epoch)
            case p.Kill():
                if host.child and host.child.alive:
                    self.at(self.random.uniform(0.001, 0.05), self.die, host.child)
            case p.End():
                if host.child:
                    host.child.ending = True

    def call(self, host: Host, call: p.Call) -> None:
        host.call += 1
        number, life = host.call, host.life
        left = (call.deadline - self.clock(host)) / host.speed
        self.at(max(0.0, left), self.give_up, host, life, number)
        # Rare calls are unlucky more often, or their misfortunes would never meet others.
        unlucky = call.verb in (p.Verb.FENCE, p.Verb.READMIT) and not self.calm_now and self.random.random() < 0.1
        late = self.random.uniform(1, 16) if unlucky else 0.0
        # Without a session, connecting is part of the call.
        host.in_transit_until = self.send(host, self.serve, host, life, number, call, host.session, late=late)
        stops = 0.05 if call.verb in (p.Verb.FENCE, p.Verb.READMIT) else 0.002
        if not self.calm_now and self.random.random() < stops:
            host.paused = True
            self.at(self.random.choice((0.5, 8.0)), self.resume, host)

    def give_up(self, host: Host, life: int, number: int) -> None:
        if host.call != number or host.life != life:
            return
        if host.paused:
            host.waiting.append(lambda: self.give_up(host, life, number))
            return
        host.call += 1
        if host.session and (host.left or "hang up" in self.broken):
            self.hang_up(host, host.session)
        elif host.session:
            host.left = host.session
        host.session = None
        self.tell(host, life, p.Failed())

    def serve(self, host: Host, life: int, number: int, call: p.Call, session: Session | None) -> None:
        if not self.database_up or (session is not None and not session.alive):
            # RST: the client learns of it if it can be reached.
            self.send(host, self.give_up, host, life, number)
            return
        session = session or self.database.open_session(host.name, None)
        if call.verb is not p.Verb.ACQUIRE and self.time < self.locked_until:
            self.wait_for_lock(host, life, number, call, session)
            return
        if call.verb is p.Verb.FENCE:
            self.fence(host, life, number, call, session)
            return
        self.answer(host, life, number, session, self.execute(call, session))

    def wait_for_lock(self, host: Host, life: int, number: int, call: p.Call, session: Session) -> None:
        if self.locked_until - self.time <= LOCK_TIMEOUT_SECONDS:
            self.at(self.locked_until - self.time, self.serve, host, life, number, call, session)
        else:
            # An error is an answer too, but brings the keeper no further.
            self.at(LOCK_TIMEOUT_SECONDS, self.send, host, self.give_up, host, life, number)

    def answer(self, host: Host, life: int, number: int, session: Session, answer: dict[str, Any]) -> None:
        self.send(host, self.hear, host, life, number, session, answer)

    def hear(self, host: Host, life: int, number: int, session: Session, answer: dict[str, Any]) -> None:
        if host.call != number or host.life != life:
            # It gave up before; its end of the connection is closed.
            self.database.close_session(session)
            return
        if host.paused:
            host.waiting.append(lambda: self.hear(host, life, number, session, answer))
            return
        host.call += 1
        host.session = session
        if host.left:
            self.hang_up(host, host.left)
            host.left = None
        self.tell(host, life, p.Answered(answer))

    def execute(self, call: p.Call, session: Session) -> dict[str, Any]:
        database = self.database
        match call.verb:
            case p.Verb.ACQUIRE:
                before, holder = database.lease, database.lease.holder_session
                # A row that is locked is skipped.
                willing = call.willing and self.time >= self.locked_until
                answer = database.acquire(session, TIMING.ttl, willing=willing)
                if answer["granted"]:
                    if database.granted[:-1] and database.granted[-2] >= answer["epoch"]:
                        raise BrokenError(f"epochs: {answer['epoch']} was given again")
                    if before.expires_at > database.now() and holder and holder.alive and before.holder != session.host:
                        raise BrokenError("stability: the lease was taken from a holder that is there")
                    self.expiry[answer["epoch"]] = database.lease.expires_at
                return answer
            case p.Verb.RENEW:
                answer = database.renew(session, call.epoch, TIMING.ttl)
                if answer["held"] and database.lease.epoch == call.epoch:
                    self.expiry[call.epoch] = database.lease.expires_at
                return answer
            case p.Verb.RELEASE:
                answer = database.release(session, call.epoch, call.successor)
                if answer["released"]:
                    self.notify()
                return answer
            case _:
                answer = database.readmit(session, call.epoch)
                child = self.hosts[session.host].child
                if answer["readmitted"] and child and child.alive:
                    raise BrokenError("readmission: the login was opened while its scheduler lives")
                return answer

    def notify(self) -> None:
        for host in self.hosts.values():
            if host.session and host.session.alive:
                self.send(host, self.tell, host, host.life, p.Notified())

    def fence(self, host: Host, life: int, number: int, call: p.Call, session: Session) -> None:
        answer = self.database.may_fence(session, call.epoch)
        if answer is not None:
            self.answer(host, life, number, session, answer)
            return
        child = host.child
        if child and child.alive and child.epoch == call.epoch:
            raise BrokenError("fence: it ends the sessions of its own epoch's scheduler")
        rivals = [] if "terminate" in self.broken else self.database.rivals()
        for rival in rivals:
            self.at(self.random.uniform(0, 0.05), self.database.close_session, rival)
        self.at(0.055 if rivals else 0.001, self.fenced, host, life, number, call, session)

    def fenced(self, host: Host, life: int, number: int, call: p.Call, session: Session) -> None:
        if not self.database_up or not session.alive or self.database.lease.epoch != call.epoch:
            return
        if "terminate" not in self.broken and self.database.rivals():
            self.fence(host, life, number, call, session)
            return
        self.database.fenced()
        self.answer(host, life, number, session, {"held": True, "resend_after": None})

    # The scheduler

    def start(self, host: Host, epoch: int) -> None:
        if host.child and host.child.alive:
            raise BrokenError("start: two schedulers on one host")
        self.began = max(self.began, epoch)
        host.child = Child(host, epoch)
        self.at(0.02, self.child_loop, host.child)

    def die(self, child: Child, fin: bool = True) -> None:  # noqa: FBT001, FBT002
        if not child.alive:
            return
        child.alive = False
        host = child.host
        if child.session and fin:
            self.at(self.delay(), self.database.close_session, child.session)
        self.at(self.random.uniform(0.001, 0.02), self.tell, host, host.life, p.SchedulerDied("killed"))

    def child_loop(self, child: Child) -> None:
        if not child.alive or child.paused:
            return
        self.check_process(child)
        if child.ending and not child.hung:
            self.at(self.random.uniform(0.01, 0.3), self.die, child)
            return
        if child.session is None or not child.session.alive or self.random.random() < 0.2:
            # Its pool also opens sessions while others are there.
            self.send(child.host, self.log_in, child)
        else:
            self.send(child.host, self.write, child, child.session)
            if not child.hung:
                self.tell(child.host, child.host.life, p.Progressed())
        self.at(self.random.uniform(0.2, 0.5), self.child_loop, child)

    def check_process(self, child: Child) -> None:
        """A scheduler that is not frozen ends before its lease does, even if no fence reaches it."""
        host = child.host
        if host.protocol is None:
            if "orphan" in self.broken and host.child is child and self.random.random() < 0.2:
                raise BrokenError("process: the scheduler outlives its keeper")
            return
        if host.paused or self.time < host.resumed_at + 0.2:
            return
        if self.database.now() > self.expiry[child.epoch] + 0.1:
            raise BrokenError(f"process: the scheduler of epoch {child.epoch} runs on after its lease has ended")

    def log_in(self, child: Child) -> None:
        role = self.database.roles[child.host.name]
        if not self.database_up or not (role.login and role.member):
            return
        session = self.database.open_session(child.host.name, child.epoch)
        session.visible = False
        self.at(self.random.choice((0.001, 0.03, 0.5)), self.logged_in, child, session)

    def logged_in(self, child: Child, session: Session) -> None:
        if not session.alive or not self.database_up:
            return
        session.visible = True
        # It was told, or it died meanwhile and its host will tell the server.
        child.session = session
        if not child.alive:
            self.at(self.delay(), self.database.close_session, session)

    def write(self, child: Child, session: Session) -> None:
        """A statement arrives: what it may do is decided now, and what it did counts when it commits."""
        if session.alive and self.database_up and self.database.roles[child.host.name].member:
            self.at(self.random.choice((0.001, 0.001, 0.02, 0.2)), self.commit, child, session)

    def commit(self, child: Child, session: Session) -> None:
        if not session.alive or not self.database_up:
            return
        if child.epoch < self.began:
            raise BrokenError(
                f"split brain: a write of epoch {child.epoch} was accepted after epoch {self.began} began"
            )
        self.writes.append((self.time, child.epoch))
