"""The real loop in a process of its own, with verbs that do what verbs may do."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVE = """
import json, os, sys, time
from argparse import Namespace
from pathlib import Path
from ops_agent.verbs import serve

def main(words):
    assert words[:2] == ("--settings", "/etc/x") and sys.argv[1:] == list(words), (words, sys.argv)
    verb, *rest = words[2:]
    if verb == "echo":
        print(json.dumps({"echo": rest, "read": sys.stdin.buffer.read().decode(), "pid": os.getpid()}))
    elif verb == "steps":
        print(json.dumps({"event": "one"}), flush=True)
        print(json.dumps({"columns": ["a"]}))
        print(json.dumps({"rows": 1}))
        sys.stdout.buffer.write(b"\\xff no JSON\\n")
    elif verb == "fail":
        print(json.dumps({"half": True}), flush=True)
        sys.stderr.write("ops-agent: " + " ".join(rest[1:]) + "\\n")
        return int(rest[0])
    elif verb == "crash":
        raise KeyError("x")
    elif verb == "usage":
        sys.exit(2)
    elif verb == "again":
        os.execv(sys.executable, [sys.executable, "-c", "import json, sys; print(json.dumps({'words': sys.argv[1:]}))",
                                  *sys.argv[1:]])
    elif verb == "die":
        os.kill(os.getpid(), 9)
    elif verb == "work":
        try:
            print(json.dumps({"event": "begun"}), flush=True)
            time.sleep(60)
        finally:
            Path(rest[0]).write_text("put away")
    elif verb == "talk":
        for line in sys.stdin:
            print(json.dumps({"event": line.strip()}), flush=True)
    return 4 if verb == "check" else 0

sys.exit(serve.run(Namespace(main=main, settings="/etc/x")))
"""


class Served:
    """A session with the loop, over one socket as sshd gives it to a command."""

    def __init__(self, root: Path) -> None:
        self.line, theirs = socket.socketpair()
        self.process = subprocess.Popen([sys.executable, "-c", SERVE], cwd=root, stdin=theirs, stdout=theirs)
        theirs.close()
        self.line.settimeout(60)
        self.output = self.line.makefile("rb")

    def say(self, *words: str, data: bytes = b"", **more: object) -> None:
        request = {"words": words} | ({"bytes": len(data)} if data else {}) | more
        self.line.sendall(json.dumps(request).encode() + b"\n" + data)

    def heard(self) -> dict[str, object]:
        answer: dict[str, object] = json.loads(self.output.readline())
        return answer

    def end(self) -> int:
        self.line.shutdown(socket.SHUT_WR)
        return self.process.wait(60)


@pytest.fixture
def served(root: Path) -> Iterator[Served]:
    session = Served(root)
    yield session
    session.process.kill()
    session.process.wait(60)
    session.line.close()


def test_each_request_has_one_answer_by_a_process_of_its_own(served: Served) -> None:
    pids = set()
    for word in ("a b; $(reboot)", 'ü"\\'):
        served.say("echo", word)
        answer = served.heard()
        assert isinstance(answer["result"], dict)
        assert (answer["code"], answer["result"]["echo"], answer["result"]["read"]) == (0, [word], "")
        pids.add(answer["result"]["pid"])
    assert len(pids) == 2
    assert served.end() == 0


def test_requests_that_are_there_at_once_are_answered_in_their_order(served: Served) -> None:
    for word in ("1", "2", "3"):
        served.say("echo", word, data=b"x" * 100)
    results = [served.heard()["result"] for _ in range(3)]
    assert [result["echo"] for result in results if isinstance(result, dict)] == [["1"], ["2"], ["3"]]


def test_what_a_verb_tells_comes_before_its_result(served: Served) -> None:
    served.say("steps")
    told = [served.heard() for _ in range(4)]
    assert told == [
        {"event": {"event": "one"}},
        {"event": {"columns": ["a"]}},
        {"event": {"event": "printed", "text": "\ufffd no JSON"}},
        {"result": {"rows": 1}, "code": 0},
    ]


@pytest.mark.parametrize(
    ("words", "error", "code"),
    [
        (["fail", "5", "vacuum", "by", "ann"], "vacuum by ann", 5),
        (["crash"], "KeyError: 'x'", 1),
        (["usage"], "ops-agent usage ended with exit code 2 and without a result", 2),
        (["die"], "ops-agent die ended by signal 9 and without a result", 1),
        (["nothing"], "ops-agent nothing ended with exit code 0 and without a result", 1),
        (["check"], "ops-agent check ended with exit code 4 and without a result", 4),
        ([], "ValueError", 1),
    ],
)
def test_failure_is_one_line_with_its_exit_class_and_ends_no_session(
    served: Served, words: list[str], error: str, code: int
) -> None:
    served.say(*words)
    answer = served.heard()
    assert (str(answer["error"]).startswith(error), answer["code"]) == (True, code), answer
    served.say("echo", "on")
    assert served.heard()["code"] == 0


def test_verb_may_start_over_in_another_python(served: Served) -> None:
    served.say("again", "x y")
    assert served.heard()["result"] == {"words": ["--settings", "/etc/x", "again", "x y"]}


def test_bulk_is_the_verbs_input_to_the_byte(served: Served) -> None:
    data = bytes(range(97, 123)) * 100_000
    served.say("echo", data=data)
    result = served.heard()["result"]
    assert isinstance(result, dict)
    assert result["read"] == data.decode()


def test_verb_does_not_start_before_its_input_is_whole(served: Served, tmp_path: Path) -> None:
    served.line.sendall(json.dumps({"words": ["work", str(tmp_path / "done")], "bytes": 10}).encode() + b"\n12345")
    assert served.end() == 0
    assert served.output.read() == b""
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("how", ["its input ends", "the line is cut"])
def test_client_that_hangs_up_ends_the_verb_which_puts_its_things_away(
    served: Served, tmp_path: Path, how: str
) -> None:
    served.say("work", str(tmp_path / "done"))
    assert served.heard() == {"event": {"event": "begun"}}
    if how == "its input ends":
        served.line.shutdown(socket.SHUT_WR)
    else:
        served.output.close()
        served.line.close()
    assert served.process.wait(60) == 0
    assert (tmp_path / "done").read_text() == "put away"


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"status\n",
        b"\xff\xfe\x00{}\n",
        b"[1]\n",
        b"null\n",
        b'{"words": "status"}\n',
        b'{"words": [1]}\n',
        b'{"words": ["a\\u0000b"]}\n',
        b'{"words": [], "bytes": -1}\n',
        b'{"words": [], "bytes": true}\n',
        b'{"words": [], "bytes": 1e3}\n',
        b'{"words": [], "bytes": 9999999999999999999}\n',
        b'{"words": [], "bytes": 1, "talk": true}\n',
        b"[" * 60000 + b"\n",
        b"x" * 70000,
        bytes(range(128, 256)) * 32 + b"\n",
    ],
    ids=lambda line: repr(line[:24]),
)
def test_what_is_no_request_is_refused_and_ends_the_session(served: Served, line: bytes) -> None:
    served.line.sendall(line)
    answer = served.heard()
    assert (str(answer["error"]).startswith("this is no request"), answer["code"]) == (True, 2)
    assert served.process.wait(60) == 2


def test_line_that_is_not_whole_is_no_request(served: Served) -> None:
    served.line.sendall(b'{"words": ["echo"]}')
    assert served.end() == 0
    assert served.output.read() == b""


def test_talk_is_with_the_verb_itself_to_the_end(served: Served) -> None:
    served.say("talk", talk=True)
    served.line.sendall(b"one\n")
    assert served.heard() == {"event": {"event": "one"}}
    served.line.sendall(b"two\n")
    assert served.heard() == {"event": {"event": "two"}}
    assert served.end() == 0
    assert json.loads(served.output.readline()) == {"result": {}, "code": 0}


def test_real_agent_serves_its_own_verbs(root: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "ops_agent.main", "--settings", str(tmp_path), "serve"]
    with subprocess.Popen(words, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b'{"words": ["status", "--json"]}\n{"words": ["fly"]}\n')
        process.stdin.flush()
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.stdin.close()
        assert process.wait(60) == 0
    assert (f"{tmp_path}/agent.json" in first["error"], first["code"]) == (True, 1)
    assert ("invalid choice: 'fly'" in second["error"], second["code"]) == (True, 2)
