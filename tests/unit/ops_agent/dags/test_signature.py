"""What no host takes: releases that nobody trusted signed, whoever wrote them to the share."""

import subprocess
import sys
from pathlib import Path

import pytest

from ops_agent.dags.store import Store
from ops_release import ReleaseError, signature
from ops_release.cache import Cache
from ops_release.share import refusal_of_current
from tests.unit.ops_agent.dags.conftest import Publish, new_key, signed, stream, write

FILES = {"dag.py": "one"}


def refused(store: Store, cache: Cache, release: str, words: str) -> None:
    """Check that nobody takes a release, and that everybody says why."""
    with pytest.raises(ReleaseError, match=words):
        cache.copy(store.root, release)
    assert cache.ids() == []
    with pytest.raises(ReleaseError, match=words):
        store.flip(release)
    assert words in store.refusal(release)
    assert [words in one.error for one in store.all() if one.id == release] == [True]
    (store.root / "current").unlink(missing_ok=True)
    (store.root / "current").symlink_to(f"releases/{release}")
    assert words in refusal_of_current(store.root, cache.signers, 10)


def test_unsigned_release_is_refused_and_the_command_that_signs_it_named(
    store: Store, cache: Cache, tmp_path: Path
) -> None:
    made = store.publish(stream(write(tmp_path / "tree", FILES)))
    refused(store, cache, made.id, f"is not signed; look at it, then type: ops releases sign {made.id}")


def test_release_that_another_key_signed_is_refused(
    store: Store, cache: Cache, publish: Publish, tmp_path: Path
) -> None:
    made = publish(FILES)
    forged = signed(store.text(made.id), new_key(tmp_path / "mallory"))
    (store.path(made.id) / signature.NAME).write_text(forged)
    refused(store, cache, made.id, "is not signed by a key that this host trusts")


def test_manifest_that_was_changed_after_it_was_signed_is_refused(store: Store, cache: Cache, publish: Publish) -> None:
    made = publish(FILES)
    manifest = store.path(made.id) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"ann"', '"bob"'))
    refused(store, cache, made.id, "is not signed by a key that this host trusts")


def test_older_release_presented_as_another_is_refused(store: Store, cache: Cache, publish: Publish) -> None:
    old = publish(FILES)
    replayed = "20991231T235959Z-abcdef0"
    store.path(old.id).rename(store.path(replayed))
    (store.root / "current").symlink_to(f"releases/{replayed}")
    with pytest.raises(ReleaseError, match=f"{replayed} has the manifest of {old.id}"):
        cache.copy(store.root, replayed)
    assert cache.ids() == []
    assert refusal_of_current(store.root, cache.signers, 10) == f"release {replayed} has the manifest of {old.id}"


def test_signature_for_another_purpose_does_not_count(store: Store, cache: Cache, publish: Publish, key: Path) -> None:
    made = publish(FILES)
    (store.path(made.id) / signature.NAME).write_text(signed(store.text(made.id), key, namespace="git"))
    refused(store, cache, made.id, "is not signed by a key that this host trusts")


def test_host_without_a_trusted_key_takes_nothing(store: Store, cache: Cache, publish: Publish) -> None:
    made = publish(FILES)
    cache.signers.unlink()
    refused(store, cache, made.id, "trusts no key")


def test_only_a_trusted_signature_is_put_beside_a_manifest(store: Store, tmp_path: Path, key: Path) -> None:
    made = store.publish(stream(write(tmp_path / "tree", FILES)))
    with pytest.raises(ReleaseError, match="not signed by a key"):
        store.sign(made.id, signed(store.text(made.id), new_key(tmp_path / "mallory")))
    assert not (store.path(made.id) / signature.NAME).exists()
    whole = signed(store.text(made.id), key)
    body = "".join(whole.split("-----")[2].split())
    words = ["--share", str(store.root), "--signers", str(store.signers), "--publisher", "root"]
    command = [sys.executable, "-m", "ops_agent.main", "release", *words, "sign", made.id, "--signature"]
    assert subprocess.run([*command, "no/../base64"], capture_output=True, check=False).returncode == 1
    subprocess.run([*command, body], check=True, capture_output=True)
    assert store.refusal(made.id) == ""


def test_copy_from_before_signatures_is_still_served(store: Store, cache: Cache, publish: Publish) -> None:
    made = publish(FILES)
    cache.copy(store.root, made.id)
    for folder in (store.path(made.id), cache.path(made.id)):
        (folder / signature.NAME).unlink()
    assert not cache.copy(store.root, made.id)
    assert cache.verify(made.id) == []
    assert cache.use(made.id) is not None
