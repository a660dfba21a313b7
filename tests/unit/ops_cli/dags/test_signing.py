"""The control node signs what it has sent and nothing else, and says plainly that it has no key."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ops_agent.dags import stream as archive
from ops_agent.dags.store import Store
from ops_cli.console.errors import OpsError, UsageError
from ops_cli.dags import signing, source
from ops_cli.fleet import inventory
from ops_release import signature
from tests.unit.ops_agent.dags.conftest import new_key

REPORT = {"dags": [], "findings": [], "warnings": 0}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return new_key(tmp_path / "key")


@pytest.fixture
def store(tmp_path: Path, key: Path) -> Store:
    (tmp_path / "share").mkdir()
    (tmp_path / "signers").write_text(f"release {key.with_suffix('.pub').read_text()}")
    return Store(tmp_path / "share", tmp_path / "lock", tmp_path / "signers")


@pytest.fixture
def sent(tmp_path: Path) -> source.Source:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags/a.py").write_text("a = 1\n")
    (tmp_path / "dags/run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "dags/run.sh").chmod(0o755)
    (tmp_path / "dags/link.py").symlink_to("a.py")
    (tmp_path / "work").mkdir()
    return source.collect(tmp_path / "dags", tmp_path / "work")


def published(store: Store, sent: source.Source) -> str:
    """Do what `ops deploy` has the publisher host do; return the release."""
    tree = sent.archive.with_name("unpacked")
    with tarfile.open(sent.archive) as arrived:
        arrived.extractall(tree, filter="tar")
    stream = io.BytesIO()
    archive.pack(tree / "dags", sent.header() | {"validation": REPORT}, stream)
    stream.seek(0)
    return store.publish(stream).id


def told(made: str, sent: source.Source) -> dict[str, Any]:
    """Return what `ops deploy` expects of the manifest, besides the files."""
    return {"id": made, "digest": sent.digest, "validation": REPORT, **sent.header()}


def test_what_is_signed_is_taken_by_the_hosts(store: Store, sent: source.Source, key: Path) -> None:
    made = published(store, sent)
    text = store.text(made)
    signing.refuse_other(text, sent.files, told(made, sent))
    store.sign(made, signature.armored(signing.signer(str(key)).sign(text)))
    assert store.refusal(made) == ""


TAMPERED: dict[str, Any] = {
    "id": lambda raw: raw | {"id": "20991231T000000Z-abcdef0"},
    "author": lambda raw: raw | {"author": "mallory"},
    "validation": lambda raw: raw | {"validation": {"dags": [], "findings": [], "warnings": 1}},
    "content": lambda raw: raw | {"files": raw["files"] | {"a.py": raw["files"]["run.sh"]}},
    "more": lambda raw: raw | {"files": raw["files"] | {"evil.py": raw["files"]["a.py"]}},
    "less": lambda raw: raw | {"files": {"a.py": raw["files"]["a.py"]}},
    "mode": lambda raw: raw | {"files": raw["files"] | {"a.py": raw["files"]["a.py"] | {"executable": True}}},
    "link": lambda raw: raw | {"links": {"link.py": "run.sh"}},
}


@pytest.mark.parametrize("case", TAMPERED)
def test_manifest_that_says_anything_else_is_not_signed(store: Store, sent: source.Source, case: str) -> None:
    made = published(store, sent)
    text = json.dumps(TAMPERED[case](json.loads(store.text(made))))
    with pytest.raises(OpsError, match=r"is not of what was sent.*nothing was signed"):
        signing.refuse_other(text, sent.files, told(made, sent))


def test_machine_without_the_key_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not on this machine: deploy from where it is") as refused:
        signing.signer(str(tmp_path / "none"))
    assert "\n" not in str(refused.value)


def test_key_that_cannot_sign_is_named(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key\n")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(OpsError, match=f"{tmp_path}/key cannot sign"):
        signing.signer(str(tmp_path / "key")).sign("x")


def test_key_is_the_environments_own_unless_the_inventory_names_one(root: Path) -> None:
    listing = {"_meta": {"hostvars": {"s": {}}}, "fleet": {"hosts": ["s"]}, "scheduler": {"hosts": ["s"]}}
    assert inventory.parse("staging", listing).signing_key == "~/.config/airfleet/staging/release-signing"
    assert inventory.load("lab", root).signing_key == "/var/lib/airfleet/lab/secrets/release-signing"


@pytest.mark.parametrize("tampered", [False, True])
def test_converge_signs_what_it_packed_and_nothing_else(
    store: Store, key: Path, root: Path, tmp_path: Path, *, tampered: bool
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.py").write_text("a = 1\n")
    packed = tmp_path / "dags.tar"
    subprocess.run(["tar", "--create", f"--file={packed}", f"--directory={tree}", "."], check=True)
    if tampered:
        (tree / "a.py").write_text("evil\n")
    stream = io.BytesIO()
    header = {"author": "site.yml", "message": "m", "source": {"kind": "bootstrap", "digest": "abc"}}
    archive.pack(tree, header, stream)
    stream.seek(0)
    made = store.publish(stream).id
    command = [sys.executable, str(root / "roles/airflow_dags/files/sign_release.py")]
    done = subprocess.run(
        [*command, str(key), str(packed), "abc"],
        input=json.dumps({"release": made, "text": store.text(made)}),
        capture_output=True,
        text=True,
        check=False,
    )
    if tampered:
        assert (done.returncode, done.stdout) == (1, "")
        assert "is not of what was sent (files)" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        store.sign(made, signature.armored(done.stdout))
        assert store.refusal(made) == ""
