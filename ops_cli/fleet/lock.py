"""What every command that changes something takes first: a lock that names its holder and leaves an audit line."""

import getpass
import json
import shlex
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

from ops_cli.console.errors import ExitCode, OpsError
from ops_cli.fleet import ssh
from ops_cli.fleet.conversation import Conversation
from ops_cli.fleet.inventory import Inventory

# A twelfth of the silence after which the host gives the lock up.
_ALIVE_SECONDS = 5
_LOCK_TIMEOUT_SECONDS = 10


class LockHeldError(OpsError):
    """Another operation holds the lock."""

    exit_code = ExitCode.LOCKED


@dataclass
class Operation:
    """One operation under its lock; `hosts` and `result` go into the audit line when it ends."""

    conversation: Conversation
    hosts: Sequence[str] = ()
    result: str = "done"
    lost: Event = field(default_factory=Event)

    def check(self) -> None:
        """Raise OpsError if the lock was lost: call it before each step that changes something."""
        if self.lost.is_set() or not self.conversation.alive:
            raise OpsError(
                f"the lock on {self.conversation.host.name} was lost, so nothing more is done; type: ops status"
            )


@contextmanager
def operation(fleet: Inventory, verb: str, *, lock: str, reason: str = "") -> Iterator[Operation]:
    """Hold the lock `lock` on the database host while the block runs.

    Raises LockHeldError if another operation has it, UnreachableError if the database host cannot be asked. An error of
    the block is written into the audit line and raised on.
    """
    keeper = fleet.tier("database")[0]
    with ssh.converse(keeper, f"{ssh.AGENT} operation --lock {shlex.quote(lock)}") as conversation:
        conversation.send(json.dumps(_introduction(verb, reason)))
        answer = json.loads(next(conversation.lines(_LOCK_TIMEOUT_SECONDS), "{}"))
        if not answer.get("held"):
            raise _refusal(keeper.name, lock, answer, conversation)
        over = Event()
        running = Operation(conversation)
        Thread(target=_stay_alive, args=(running, over), daemon=True).start()
        try:
            yield running
        except BaseException as error:
            running.result = f"{type(error).__name__}: {error}"
            raise
        finally:
            over.set()
            conversation.say_last(json.dumps({"hosts": list(running.hosts), "result": running.result}))


def _introduction(verb: str, reason: str) -> dict[str, str]:
    return {"who": getpass.getuser(), "from": socket.gethostname(), "verb": verb, "reason": reason}


def _refusal(host: str, lock: str, answer: dict[str, Any], conversation: Conversation) -> OpsError:
    if "held" not in answer:
        return OpsError(
            f"{host}: the lock {lock} could not be asked for: {conversation.failure()}; "
            "type: .venv/bin/ansible-playbook site.yml --tags ops_agent"
        )
    holder = answer.get("holder", {})
    return LockHeldError(
        f"{holder.get('who', 'somebody')} on {holder.get('from', 'another machine')} has run "
        f"ops {holder.get('verb', '?')} since {holder.get('since', 'just now')}; "
        "wait until it is over, then type the command again"
    )


def _stay_alive(running: Operation, over: Event) -> None:
    while not over.wait(_ALIVE_SECONDS):
        try:
            running.conversation.send("")
        except OSError:
            running.lost.set()
            return
