import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ops_cli.console.errors import OpsError
from ops_cli.dags.hosts import ReleaseHosts
from ops_cli.dags.source import Source
from ops_cli.fleet import ssh
from ops_cli.fleet.agent import Sessions
from ops_cli.fleet.inventory import Host, Inventory
from tests.unit.ops_agent.dags.conftest import new_key
from tests.unit.ops_cli import served

FLEET = Inventory("prod", tuple(Host(name, "10.0.0.1", "scheduler") for name in ("sched1", "sched2")))
# Says what it was asked and given; a host without a database cannot say what serves.
VERBS = """
import json, os

def main(words):
    heard = {"words": words[2:], "read": sys.stdin.read()}
    if words[2] == "validate":
        refused = "bad" in heard["read"]
        print(json.dumps({"report": json.dumps(heard), "refused": refused}))
        return 4 if refused else 0
    if words[3] == "publish":
        print(json.dumps(heard | {"release": "r1"}))
    elif words[3] == "manifest":
        print(json.dumps({"text": os.environ["MANIFEST"]}))
    elif words[3] == "sign":
        with open(os.environ["SIGNED"], "w") as signed:
            json.dump(heard, signed)
        print("{}")
    else:
        print(json.dumps(heard | {"seconds": 0.5, "copied": True}))
    return 0
"""


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> served.Logins:
    logins = served.Logins(served.python(served.LOOP.format(verbs=VERBS)))
    monkeypatch.setattr(ssh, "converse", logins.converse)
    return logins


@pytest.mark.parametrize("queues", [["cpu", "gpu"], None])
@pytest.mark.usefixtures("logins")
def test_gate_is_told_what_the_fleet_has_and_given_the_tree(tmp_path: Path, queues: list[str] | None) -> None:
    (tmp_path / "dags.tar").write_text("a tree")
    known = {"pools": ["default_pool"], "import_errors": 0} | ({"queues": queues} if queues else {})
    with Sessions() as sessions:
        report, refused = ReleaseHosts(FLEET, sessions).validate(tmp_path / "dags.tar", known, keep="abc")
    heard = json.loads(report)
    words = dict(zip(heard["words"][1:-1:2], heard["words"][2:-1:2], strict=True))
    assert (refused, heard["read"], words["--keep"], heard["words"][-1]) == (False, "a tree", "abc", "-")
    assert json.loads(words["--options"]) == {"pools": ["default_pool"], "queues": queues}


@pytest.mark.usefixtures("logins")
def test_refused_tree_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "dags.tar").write_text("a bad tree")
    with Sessions() as sessions:
        assert ReleaseHosts(FLEET, sessions).validate(tmp_path / "dags.tar", {})[1] is True


@pytest.mark.parametrize("validation", [{"dags": []}, {"dags": [], "waived": 1}])
def test_tree_is_sent_once_published_by_its_digest_and_signed_if_it_is_what_was_judged(
    logins: served.Logins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validation: dict[str, Any]
) -> None:
    (tmp_path / "dags.tar").write_text("a tree")
    report = {"dags": []}
    source = Source(tmp_path / "dags.tar", {"a.py": "0" * 64}, "ann", "message")
    files = {"a.py": {"sha256": "0" * 64, "size": 1, "executable": False}}
    manifest = {"id": "r1", "digest": source.digest, "files": files, "validation": validation, **source.header()}
    monkeypatch.setenv("MANIFEST", json.dumps(manifest))
    monkeypatch.setenv("SIGNED", str(tmp_path / "signed"))
    fleet = replace(FLEET, signing_key=str(new_key(tmp_path / "key")))
    with Sessions() as sessions:
        hosts = ReleaseHosts(fleet, sessions)
        hosts.validate(source.archive, {}, keep=source.digest)
        if validation != report:
            with pytest.raises(OpsError, match=r"not of what was sent \(validation\)"):
                hosts.publish(source, report)
            assert not (tmp_path / "signed").exists()
            return
        published = hosts.publish(source, report)
    assert published["words"] == ["release", "publish", "--judged", source.digest]
    # What the gate found, and of which bytes, is the host's to say.
    assert json.loads(published["read"]).keys() == {"author", "message", "commit", "dirty", "source"}
    assert json.loads((tmp_path / "signed").read_text())["words"][:3] == ["release", "sign", "r1"]
    assert logins.hosts == ["sched1"]


@pytest.mark.usefixtures("logins")
def test_every_airflow_host_copies_a_release() -> None:
    warmed = ReleaseHosts(FLEET, Sessions()).warm("r1")
    assert [(one.host, one.copied, one.error) for one in warmed] == [("sched1", True, ""), ("sched2", True, "")]


def test_question_that_any_scheduler_answers_goes_to_the_next_one(
    logins: served.Logins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def converse(host: Host, command: str) -> object:
        if host.name == "sched1":
            raise ssh.UnreachableError("sched1 is away")
        return logins.converse(host, command)

    monkeypatch.setattr(ssh, "converse", converse)
    with Sessions() as sessions:
        assert ReleaseHosts(FLEET, sessions).served("r1")["words"] == ["release", "served", "--release", "r1"]
        with pytest.raises(OpsError, match="sched1 is away"):
            ReleaseHosts(FLEET, sessions).links()
