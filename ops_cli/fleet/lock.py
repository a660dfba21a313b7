"""What every command that changes something takes first: a lock that names its holder and leaves an audit line."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

from ops_cli.console import hints
from ops_cli.console.errors import OpsError
from ops_cli.fleet import agent, caller, ssh
from ops_cli.fleet.agent import LockHeldError
from ops_cli.fleet.conversation import Conversation
from ops_cli.fleet.inventory import Inventory

# A twelfth of the silence after which the host gives the lock up, and half of it.
_ALIVE_SECONDS = 5.0
_UNHEARD_SECONDS = 30.0


@dataclass
class Operation:
    """One operation under its lock; `hosts` and `result` go into the audit line when it ends."""

    conversation: Conversation
    hosts: Sequence[str] = ()
    result: str = "done"
    lost: Event = field(default_factory=Event)
    heard: float = field(default_factory=time.monotonic)
    """When the host was last known to hold the lock."""

    def check(self) -> None:
        """Raise OpsError if the lock was lost: call it before each step that changes something."""
        unheard = time.monotonic() - self.heard > _UNHEARD_SECONDS
        if unheard or self.lost.is_set() or not self.conversation.alive:
            host = self.conversation.host
            look = hints.ops(host.env, "status")
            raise OpsError(f"the lock on {host.name} was lost, so nothing more is done; type: {look}")


@contextmanager
def operation(fleet: Inventory, verb: str, *, lock: str, reason: str = "") -> Iterator[Operation]:
    """Hold the lock `lock` on the database host while the block runs.

    Raises LockHeldError if another operation has it, UnreachableError if the database host cannot be asked. An error of
    the block is written into the audit line and raised on.
    """
    with ssh.converse(fleet.database, agent.COMMAND) as conversation:
        said = agent.talk(conversation, ["operation", "--lock", lock], silence_seconds=_UNHEARD_SECONDS)
        # Whoever has ended by now says why.
        with suppress(OSError):
            conversation.send(json.dumps(_introduction(verb, reason)))
        answer = next(said)
        if not answer["held"]:
            raise _refusal(answer["holder"])
        over = Event()
        running = Operation(conversation)
        Thread(target=_stay_alive, args=(running, over, said), daemon=True).start()
        try:
            yield running
        except BaseException as error:
            running.result = f"{type(error).__name__}: {error}"
            raise
        finally:
            over.set()
            conversation.say_last(json.dumps({"hosts": list(running.hosts), "result": running.result}))


def _introduction(verb: str, reason: str) -> dict[str, str]:
    return {"who": caller.user(), "from": caller.machine(), "verb": verb, "reason": reason}


def _refusal(holder: Mapping[str, Any]) -> LockHeldError:
    return LockHeldError(
        f"{holder.get('who', 'somebody')} on {holder.get('from', 'another machine')} has run "
        f"ops {holder.get('verb', '?')} since {holder.get('since', 'just now')}; "
        "wait until it is over, then type the command again"
    )


def _stay_alive(running: Operation, over: Event, heard: Iterator[agent.Line]) -> None:
    """Tell the host that this side lives, and note when it answered: a line that is cut may swallow words for long."""
    while not over.wait(_ALIVE_SECONDS):
        sent = time.monotonic()
        try:
            running.conversation.send("")
            next(heard)
        except (OSError, OpsError, StopIteration):
            running.lost.set()
            return
        running.heard = sent
