"""Says a sentence to `ops-agent serve` on hosts: requests a line, answers as `ops_agent.verbs.serve` has them."""

import io
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

from rich.text import Text

from ops_cli.console import hints
from ops_cli.console.errors import ExitCode, OpsError
from ops_cli.console.tables import console
from ops_cli.fleet import ssh
from ops_cli.fleet.conversation import SILENT, Conversation, RemoteError
from ops_cli.fleet.inventory import Host

# The one command that is run on hosts; a site's sudoers need allow no other.
COMMAND = "sudo -n /usr/local/bin/ops-agent serve"

Line = dict[str, Any]

# Between two lines: counting a large table before the first is one statement.
_SILENCE_SECONDS = 900
_KINDS = {"event": dict, "result": dict, "error": str}
# What an ops-agent says to a word that it does not know, and a shell where there is none.
_OF_ANOTHER_VERSION = ("invalid choice", "unrecognized arguments", "command not found", "is no request")


class LockHeldError(OpsError):
    """Another operation holds the lock."""

    exit_code = ExitCode.LOCKED


@dataclass(frozen=True)
class Reply:
    """What a host answered, or why it did not; `status` is then the exit code."""

    host: Host
    reachable: bool
    answer: Line = field(default_factory=dict)
    error: str = ""
    status: int = 0


def ask(
    conversation: Conversation, words: Sequence[str], *, silence_seconds: float, data: bytes | Path = b""
) -> Iterator[Line]:
    """Say one sentence in an open conversation; yield what the host tells on the way and, as the last, its result.

    A check that failed is no error: what it found is in the result. `data`, or the file of that name, is what the verb
    reads. Raises RemoteError if the verb fails or is silent for `silence_seconds`, LockHeldError if another is at work,
    UnreachableError if the line is lost, and OpsError if the host's ops-agent is another version.
    """
    heard = conversation.lines(silence_seconds)
    # Whoever ends before it has heard everything says why, and that is read next.
    with suppress(OSError), data.open("rb") if isinstance(data, Path) else io.BytesIO(data) as source:
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        conversation.send(json.dumps({"words": list(words)} | ({"bytes": size} if size else {})))
        conversation.feed(source)
    return _answers(conversation, heard)


def talk(conversation: Conversation, words: Sequence[str], *, silence_seconds: float) -> Iterator[Line]:
    """Say one sentence after which the rest of the conversation is with the verb itself; yield and raise as `ask`."""
    heard = conversation.lines(silence_seconds)
    with suppress(OSError):
        conversation.send(json.dumps({"words": list(words), "talk": True}))
    return _answers(conversation, heard)


def _answers(conversation: Conversation, heard: Iterator[str]) -> Iterator[Line]:
    for text in heard:
        line = _read(conversation.host, text)
        if "event" in line:
            yield line["event"]
        elif "result" in line:
            yield line["result"]
            return
        else:
            raise _failure(conversation.host, str(line["error"]), line.get("code", ExitCode.FAILED))
    raise _lost(conversation)


def _lost(conversation: Conversation) -> OpsError:
    """Say why a conversation ended without an answer."""
    host = conversation.host
    if reason := conversation.failure():
        return _failure(host, reason.splitlines()[-1], ExitCode.FAILED)
    reason = "the connection was lost"
    return ssh.UnreachableError(f"{host.name} ({host.address}): {reason}", reason)


def lines(
    host: Host, words: Sequence[str], *, stdin: str = "", silence_seconds: float = _SILENCE_SECONDS
) -> Generator[Line]:
    """Log in, say one sentence, and yield what `ask` does. Raises UnreachableError if there is no login."""
    with ssh.converse(host, COMMAND) as conversation:
        yield from ask(conversation, words, silence_seconds=silence_seconds, data=stdin.encode())


def result(host: Host, words: Sequence[str], *, stdin: str = "", tell: Callable[[Line], str] = lambda _: "") -> Line:
    """Run a verb to its end and return its result; what `tell` makes of the rest is shown on a terminal."""
    with (
        console(stderr=True).status(Text(f"{host.name}: {words[0]}"), spinner="line") as status,
        closing(lines(host, words, stdin=stdin)) as heard,
    ):
        for line in heard:
            if "event" not in line:
                return line
            if text := tell(line):
                status.update(Text(text))
    raise OpsError(f"{host.name}: ops-agent {words[0]} ended without a result; look at its journal")


def survey(hosts: Sequence[Host], words: Sequence[str], *, timeout_seconds: float) -> list[Reply]:
    """Say one sentence to every host, all at once; return the replies in the order of `hosts`.

    A host that cannot be logged in to within ssh.REACH_SECONDS is unreachable; one that was reached has
    `timeout_seconds` more. Raises UsageError if a key file of the inventory does not exist.
    """
    ssh.refuse_missing_keys(hosts)
    calls = [_Call(host, words, timeout_seconds) for host in hosts]
    started = time.monotonic()
    for call in calls:
        # Daemons: a thread stuck in a dead connection must not keep the command from ending.
        Thread(target=call.run, daemon=True).start()
    return [call.collect(started) for call in calls]


class _Call:
    """One sentence to one host, in a thread of its own."""

    def __init__(self, host: Host, words: Sequence[str], timeout_seconds: float) -> None:
        self.host, self.words, self.timeout_seconds = host, words, timeout_seconds
        self.login_over, self.over = Event(), Event()
        self.reply = Reply(host, reachable=True, error=f"no answer within {timeout_seconds:g} s")

    def run(self) -> None:
        try:
            self._run()
        except ssh.UnreachableError as error:
            self.reply = Reply(self.host, reachable=False, error=error.reason)
        except RemoteError as error:
            self.reply = Reply(self.host, reachable=True, error=error.reason, status=error.status)
        except OpsError as error:
            self.reply = Reply(self.host, reachable=True, error=str(error).removeprefix(f"{self.host.name}: "))
        finally:
            self.login_over.set()
            self.over.set()

    def _run(self) -> None:
        with ssh.converse(self.host, COMMAND) as conversation:
            self.login_over.set()
            *_, answer = ask(conversation, self.words, silence_seconds=self.timeout_seconds)
            self.reply = Reply(self.host, reachable=True, answer=answer)

    def collect(self, started: float) -> Reply:
        if not self.login_over.wait(max(0, started + ssh.REACH_SECONDS - time.monotonic())):
            return Reply(self.host, reachable=False, error=f"no login within {ssh.REACH_SECONDS:g} s")
        self.over.wait(self.timeout_seconds + 0.5)
        return self.reply


class Sessions:
    """Logins that stay open, by host; one that is lost is made anew by the next question."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[ExitStack, Conversation]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for host in list(self._open):
            self._drop(host)

    def ask(self, host: Host, words: Sequence[str], *, timeout_seconds: float, data: bytes | Path = b"") -> Line:
        """Say one sentence and return its result. Raises as `ask` does."""
        kept = False
        try:
            *_, answer = ask(self._conversation(host), words, silence_seconds=timeout_seconds, data=data)
            kept = True
        except RemoteError as error:
            # A host that went silent may yet answer, and that would pass for the answer to the next question.
            kept = error.status != SILENT
            raise
        finally:
            if not kept:
                self._drop(host.name)
        return answer

    def _conversation(self, host: Host) -> Conversation:
        if host.name not in self._open:
            stack = ExitStack()
            self._open[host.name] = (stack, stack.enter_context(ssh.converse(host, COMMAND)))
        return self._open[host.name][1]

    def _drop(self, host: str) -> None:
        if opened := self._open.pop(host, None):
            opened[0].close()


def _read(host: Host, text: str) -> Line:
    try:
        found = json.loads(hints.of_agent(text, host.env))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not any(isinstance(found.get(key), kind) for key, kind in _KINDS.items()):
        raise _other_version(host, f"ops-agent printed {text[:80]!r}, which is no answer")
    return found


def _failure(host: Host, reason: str, code: int) -> OpsError:
    """Say what a failure on the host means to the operator."""
    if any(sign in reason for sign in _OF_ANOTHER_VERSION):
        return _other_version(host, reason)
    if code == ExitCode.LOCKED:
        return LockHeldError(f"{host.name}: {reason}; wait until it is over, then type the command again")
    return RemoteError(host, code, reason)


def _other_version(host: Host, reason: str) -> OpsError:
    repair = hints.playbook(host.env, "--tags ops_agent,metadata_archive")
    what = reason.partition(" (choose from")[0]
    return OpsError(f"{host.name}: {what}; the host's ops-agent is another version: type {repair}")
