"""The lease functions of roles/postgres/templates/lease.sql.j2, as far as their order and conditions matter.

tests/lab/lease/test_model.py puts the same questions to this model and to the real server.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

EARLY_SECONDS = 1.5
SERVER_GRACE_SECONDS = 10.0
RESERVED_SECONDS = 5.0


@dataclass
class Session:
    host: str
    # Of the scheduler that logged in; None for a keeper's session.
    epoch: int | None
    started: float
    number: int
    alive: bool = True
    # A scheduler's session takes part in the fence's count only when its start is complete.
    visible: bool = True


@dataclass
class Role:
    login: bool = True
    member: bool = True


@dataclass
class Lease:
    epoch: int = 0
    holder: str | None = None
    expires_at: float = -1e9
    renewed_at: float = -1e9
    fenced: bool = False
    holder_session: Session | None = None
    hand_over_to: str | None = None
    successor: str | None = None
    released_at: float = -1e9


@dataclass
class Database:
    """`now` is this server's clock; `broken` names the rules that a mutation has taken away."""

    now: Callable[[], float]
    hosts: tuple[str, ...]
    broken: frozenset[str] = frozenset()
    lease: Lease = field(default_factory=Lease)
    roles: dict[str, Role] = field(default_factory=dict)
    ready: dict[str, float] = field(default_factory=dict)
    sessions: set[int] = field(default_factory=set)
    by_number: dict[int, Session] = field(default_factory=dict)
    started_at: float = -1e9
    granted: list[int] = field(default_factory=list)
    _numbers: int = 0

    def __post_init__(self) -> None:
        self.roles = {host: Role() for host in self.hosts}

    def open_session(self, host: str, epoch: int | None) -> Session:
        self._numbers += 1
        session = Session(host, epoch, self.now(), self._numbers)
        self.by_number[session.number] = session
        return session

    def close_session(self, session: Session) -> None:
        session.alive = False
        self.by_number.pop(session.number, None)

    def restart(self) -> None:
        for session in list(self.by_number.values()):
            self.close_session(session)
        self.started_at = self.now()

    def acquire(self, session: Session, ttl: float, *, willing: bool) -> dict[str, Any]:
        lease, me, now = self.lease, session.host, self.now()
        if willing:
            self.ready[me] = now
        if not (willing and self._reserved_for(me, now) and self._free(session, now)):
            return {"granted": False, "epoch": lease.epoch, "holder": lease.holder, "admitted": self.roles[me].login}
        for host, role in self.roles.items():
            if host == me:
                role.login = role.member = True
            else:
                role.login = False
                role.member = role.member and "revoke" in self.broken
        self.lease = Lease(
            epoch=lease.epoch + ("epoch" not in self.broken),
            holder=me,
            expires_at=now + ttl,
            renewed_at=now,
            holder_session=session,
        )
        self.granted.append(self.lease.epoch)
        return {"granted": True, "epoch": self.lease.epoch, "holder": me, "admitted": True}

    def _reserved_for(self, me: str, now: float) -> bool:
        lease = self.lease
        return lease.successor is None or lease.successor == me or lease.released_at < now - RESERVED_SECONDS

    def _free(self, session: Session, now: float) -> bool:
        lease, holder = self.lease, self.lease.holder_session
        if lease.holder is None or lease.expires_at <= now or "expiry" in self.broken:
            return True
        if (
            lease.holder == session.host
            and holder is not None
            and (holder.number < session.number or "younger" in self.broken)
        ):
            return True
        gone = (lease.fenced and (holder is None or not holder.alive)) or "gone" in self.broken
        return lease.renewed_at < now - EARLY_SECONDS and self.started_at < now - SERVER_GRACE_SECONDS and gone

    def rivals(self) -> list[Session]:
        """Return the scheduler sessions that the fence has to end."""
        return [s for s in self.by_number.values() if s.epoch is not None and s.visible]

    def may_fence(self, session: Session, epoch: int) -> dict[str, Any] | None:
        """Return the answer of a fence() that has nothing to do, or None if it must act."""
        lease = self.lease
        if lease.holder != session.host or lease.epoch != epoch:
            return {"held": False}
        if lease.fenced and "once" not in self.broken:
            return {"held": True, "resend_after": None}
        return None

    def fenced(self) -> dict[str, Any]:
        self.lease.fenced = True
        return {"held": True, "resend_after": None}

    def renew(self, session: Session, epoch: int, ttl: float) -> dict[str, Any]:
        lease, now = self.lease, self.now()
        mine = lease.holder == session.host and lease.epoch == epoch and lease.expires_at > now
        if not mine and "renew" not in self.broken:
            return {"held": False, "hand_over_to": None}
        if mine:
            lease.expires_at, lease.renewed_at, lease.holder_session = now + ttl, now, session
        return {"held": True, "hand_over_to": lease.hand_over_to if mine else None}

    def release(self, session: Session, epoch: int, successor: str | None) -> dict[str, Any]:
        lease = self.lease
        if lease.holder != session.host or (lease.epoch != epoch and "release" not in self.broken):
            return {"released": False}
        lease.holder, lease.expires_at, lease.released_at = None, -1e9, self.now()
        lease.successor, lease.hand_over_to = successor, None
        return {"released": True}

    def readmit(self, session: Session, seen: int) -> dict[str, Any]:
        lease, role = self.lease, self.roles[session.host]
        if lease.epoch != seen or lease.holder == session.host or role.login:
            return {"readmitted": False}
        role.login = True
        return {"readmitted": True}

    def hand_over(self, target: str) -> bool:
        lease, now = self.lease, self.now()
        if lease.holder in (None, target) or lease.expires_at <= now or self.ready.get(target, -1e9) < now - 5:
            return False
        lease.hand_over_to = target
        return True
