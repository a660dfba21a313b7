"""`ops-agent serve`: the one command that `ops` runs on a host. A request a line, answered by lines of JSON.

A request is `{"words": [...]}`, what would be typed after `ops-agent`. With `"bytes": N` the N bytes after its line are
the verb's standard input, and the verb starts when all of them are there. With `"talk": true` all that follows is said
to the verb itself, and the session ends with it. The answers are `{"event": {...}}` as often as the verb has something
to tell, then one `{"result": {...}, "code": 0 or 4}` or `{"error": TEXT, "code": N}`, where 4 is a check that failed.

The input stays open until the answer is there: when it ends before, nobody waits for that any more, and the verb is
told to end (SIGTERM). A verb is a process of its own, because it gives up root and may start over in another Python.
"""

import json
import os
import select
import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

DONE, FAILED, USAGE, CHECK_FAILED = 0, 1, 2, 4
REQUEST_BYTES = 64 << 10
# Beyond any tree of DAG files; the host's disk is not the caller's to fill.
STREAM_BYTES = 2 << 30
_BLOCK_BYTES = 1 << 20
_ERROR_BYTES = 64 << 10
_STDIN, _STDOUT = 0, 1
# On the disk, unlike /run and often /tmp.
_SPOOL = "/var/tmp"  # noqa: S108 - nameless files


class RequestError(Exception):
    """What was said is no request; after it nobody knows where the next one begins."""


class HungUpError(Exception):
    """The other side is gone."""


@dataclass(frozen=True)
class Request:
    """One line of `ops`."""

    words: tuple[str, ...]
    bytes: int = 0
    talk: bool = False


def add(verbs: Any) -> None:
    """Add the verb."""
    verb = verbs.add_parser("serve", help="answer the requests of `ops` on standard input until it ends")
    verb.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Answer until the input ends; return 0, or 2 after what is no request.

    `arguments.main` runs the words of a request, as `ops-agent` itself does.
    """
    try:
        while request := _request():
            with _input(request) as given:
                _answer(arguments.main, ("--settings", str(arguments.settings), *request.words), request, given)
            if request.talk:
                break
    except RequestError as error:
        _say({"error": f"this is no request: {error}", "code": USAGE})
        return USAGE
    except (HungUpError, BrokenPipeError):
        return DONE
    except OSError as error:
        _say({"error": f"ops-agent cannot go on: {error}", "code": FAILED})
        return FAILED
    return DONE


def _request() -> Request | None:
    line = _line()
    if line is None:
        return None
    try:
        said = json.loads(line)
        words, size, talk = said["words"], said.get("bytes", 0), said.get("talk", False)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(f"{type(error).__name__} in {line[:80]!r}") from error
    if not (isinstance(words, list) and all(isinstance(word, str) and "\0" not in word for word in words)):
        raise RequestError("its words are no list of texts")
    if type(size) is not int or not 0 <= size <= STREAM_BYTES or (size and talk):
        raise RequestError(f"{size!r:.80} is no number of bytes up to {STREAM_BYTES}, or talk follows them")
    return Request(tuple(words), size, talk is True)


def _line() -> bytes | None:
    """Read one line and nothing of what follows it, which may be another process's to read."""
    line = bytearray()
    while (byte := os.read(_STDIN, 1)) != b"\n":
        if not byte:
            return None
        line += byte
        if len(line) > REQUEST_BYTES:
            raise RequestError(f"it is longer than {REQUEST_BYTES} bytes")
    return bytes(line)


def _input(request: Request) -> IO[bytes]:
    """Return what the verb is to read, once the whole of it has come."""
    if not request.bytes:
        return Path(os.devnull).open("rb")
    spool = tempfile.TemporaryFile(dir=_SPOOL)  # noqa: SIM115 - the caller closes it
    left = request.bytes
    while left:
        block = os.read(_STDIN, min(left, _BLOCK_BYTES))
        if not block:
            spool.close()
            raise HungUpError
        spool.write(block)
        left -= len(block)
    spool.seek(0)
    return spool


def _answer(main: Callable[[Sequence[str]], int], words: Sequence[str], request: Request, given: IO[bytes]) -> None:
    """Run one verb in a process of its own and pass on what it says."""
    # In memory: a host whose disk is full or read-only can still say so.
    with os.fdopen(os.memfd_create("errors"), "rb") as errors:
        heard, said = os.pipe()
        child = os.fork()
        if not child:
            os.close(heard)
            _be_verb(main, words, _STDIN if request.talk else given.fileno(), said, errors.fileno())
        os.close(said)
        last = None
        try:
            for line in _lines(heard, watch=not request.talk):
                last = _passed_on(line, last)
        except (HungUpError, BrokenPipeError):
            _end(child)
            raise
        finally:
            os.close(heard)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _ERROR_BYTES))
        _conclude(request, last, status, errors.read().decode(errors="replace"))


def _end(child: int) -> None:
    """Tell a verb and whatever it has started to end."""
    with suppress(ProcessLookupError, PermissionError):
        # It may not have come to this itself yet.
        os.setpgid(child, child)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGTERM)


def _be_verb(main: Callable[[Sequence[str]], int], words: Sequence[str], given: int, said: int, errors: int) -> None:
    """Become the process of a verb, in a group of its own; does not return."""
    code = FAILED
    try:
        os.setpgid(0, 0)
        for source, target in ((given, _STDIN), (said, _STDOUT), (errors, 2)):
            os.dup2(source, target)
        # Whatever a verb has begun is put away as by any other exception.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        # Where a verb starts over in another Python, these are the words.
        sys.argv[1:] = words
        code = main(words)
        sys.stdout.flush()
    except SystemExit as ended:
        code = _exit_code(ended)
    except BaseException:  # noqa: BLE001 - a process ends here, and this side of a fork must not go on as the other
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _exit_code(ended: SystemExit) -> int:
    """Return what a process that ends so exits with; a text it is to end with goes to stderr."""
    if isinstance(ended.code, str):
        sys.stderr.write(f"{ended.code}\n")
        return FAILED
    return ended.code or DONE


def _lines(heard: int, *, watch: bool) -> Iterator[bytes]:
    """Yield each line a verb prints; raise HungUpError if the session's input ends meanwhile and `watch` is asked."""
    poll = select.poll()
    poll.register(heard, select.POLLIN)
    if watch:
        # An end, not what comes: the next request may be there already.
        poll.register(_STDIN, select.POLLHUP | select.POLLRDHUP)
    buffer = b""
    while True:
        if any(ready == _STDIN for ready, _ in poll.poll()):
            raise HungUpError
        if not (chunk := os.read(heard, _BLOCK_BYTES)):
            break
        *lines, buffer = (buffer + chunk).split(b"\n")
        yield from lines
    if buffer:
        yield buffer


def _passed_on(line: bytes, last: bytes | None) -> bytes | None:
    """Pass an event on; keep what may be the result, until another line shows that it was none."""
    found = _object(line)
    if found is not None and "event" not in found:
        if last is not None:
            _tell(last)
        return line
    _tell(
        line if found is not None else json.dumps({"event": "printed", "text": line.decode(errors="replace")}).encode()
    )
    return last


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _tell(line: bytes) -> None:
    _write(b'{"event": ' + line + b"}\n")


def _conclude(request: Request, last: bytes | None, status: int, errors: str) -> None:
    if status in {DONE, CHECK_FAILED} and last is not None:
        _write(b'{"result": ' + last + b', "code": %d}\n' % status)
    elif status == DONE and request.talk:
        _say({"result": {}, "code": DONE})
    else:
        _say({"error": _reason(request, status, errors), "code": max(status, 0) or FAILED})


def _reason(request: Request, status: int, errors: str) -> str:
    """Return the one line that tells why; above it may stand how to use a verb, or where in it an error was."""
    if said := [line for line in errors.splitlines() if line.strip()]:
        return said[-1].removeprefix("ops-agent: ")
    how = f"by signal {-status}" if status < 0 else f"with exit code {status}"
    return f"ops-agent {' '.join(request.words[:2])} ended {how} and without a result"


def _say(answer: dict[str, Any]) -> None:
    _write(json.dumps(answer).encode() + b"\n")


def _write(line: bytes) -> None:
    while line:
        line = line[os.write(_STDOUT, line) :]
