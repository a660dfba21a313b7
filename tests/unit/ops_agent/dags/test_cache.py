"""A host's copies: verified, shared by many processes, and removed only when nobody needs them."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ops_agent.dags.store import Store
from ops_release import ReleaseError
from ops_release.cache import Cache
from tests.unit.ops_agent.dags.conftest import Publish, contents, signed, stream, write

FILES = {"dag.py": "one", "mit leerzeichen/ü.py": "two"}


def test_copy_has_what_was_published_and_needs_the_share_no_more(store: Store, cache: Cache, publish: Publish) -> None:
    made = publish(FILES)
    assert cache.copy(store.root, made.id)
    shutil.rmtree(store.root)
    assert not cache.copy(store.root, made.id)
    assert contents(cache.path(made.id) / "dags") == FILES
    assert cache.verify(made.id) == []
    assert cache.ids() == [made.id]


def test_links_and_executables_are_copied(store: Store, cache: Cache, tmp_path: Path, key: Path) -> None:
    tree = write(tmp_path / "tree", {"run.sh": "x"})
    (tree / "run.sh").chmod(0o755)
    (tree / "l").symlink_to("run.sh")
    made = store.publish(stream(tree))
    store.sign(made.id, signed(store.text(made.id), key))
    cache.copy(store.root, made.id)
    assert os.access(cache.path(made.id) / "dags/l", os.X_OK)
    assert cache.verify(made.id) == []


@pytest.mark.parametrize("damage", ["changed", "missing", "unlisted manifest", "other manifest"])
def test_damage_on_the_share_is_never_served(store: Store, cache: Cache, publish: Publish, damage: str) -> None:
    made, other = publish(FILES), publish({"dag.py": "three"})
    release = store.path(made.id)
    if damage == "changed":
        (release / "dags/dag.py").write_text("one and more")
    elif damage == "missing":
        (release / "dags/dag.py").unlink()
    elif damage == "unlisted manifest":
        (release / "manifest.json").unlink()
    else:
        (release / "manifest.json").write_text(other.to_json())
    with pytest.raises(ReleaseError, match=made.id):
        cache.copy(store.root, made.id)
    assert not cache.has(made.id)
    assert not list(cache.root.glob(".new-*"))


def test_unchanged_files_are_taken_from_this_host_unless_they_are_damaged(
    store: Store, cache: Cache, publish: Publish
) -> None:
    old, new = (
        publish({"a.py": "same", "b.py": "same too"}),
        publish({"a.py": "same", "c/b.py": "same too", "d.py": "new"}),
    )
    cache.copy(store.root, old.id)
    (store.path(new.id) / "dags/a.py").unlink()
    (cache.path(old.id) / "dags/b.py").write_text("damaged")
    cache.copy(store.root, new.id)
    assert contents(cache.path(new.id) / "dags") == {"a.py": "same", "c/b.py": "same too", "d.py": "new"}


def test_file_that_nobody_published_stays_on_the_share(store: Store, cache: Cache, publish: Publish) -> None:
    made = publish(FILES)
    (store.path(made.id) / "dags/intruder.py").write_text("x")
    cache.copy(store.root, made.id)
    assert contents(cache.path(made.id) / "dags") == FILES


def test_bytecode_beside_the_sources_does_not_count_as_damage(store: Store, cache: Cache, publish: Publish) -> None:
    made = publish({"a.py": "x = 1\n"})
    cache.copy(store.root, made.id)
    tree = cache.path(made.id) / "dags"
    subprocess.run([sys.executable, "-c", "import a"], cwd=tree, env={"PYTHONPATH": str(tree)}, check=True)
    assert list(tree.glob("__pycache__/a.*.pyc"))
    assert cache.verify(made.id) == []
    (tree / "a.py").write_text("x = 2\n")
    assert cache.verify(made.id) == ["a.py is not what was published"]


def test_many_processes_at_once_make_one_copy(store: Store, cache: Cache, publish: Publish) -> None:
    made = publish({f"d{number}.py": "x" * 2000 for number in range(50)})
    words = [
        "--share",
        str(store.root),
        "--cache",
        str(cache.root),
        "--signers",
        str(cache.signers),
        "--service-user",
        "root",
        "warm",
        made.id,
    ]
    command = [sys.executable, "-m", "ops_agent.main", "release", *words]
    copiers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(6)]
    answers = [json.loads(copier.communicate(timeout=60)[0]) for copier in copiers]
    assert [answer["copied"] for answer in answers].count(True) == 1
    assert cache.verify(made.id) == []


def test_last_good_is_remembered_as_long_as_its_copy_is_there(store: Store, cache: Cache, publish: Publish) -> None:
    made = publish(FILES)
    assert cache.last_good() is None
    cache.copy(store.root, made.id)
    cache.remember(made.id)
    assert Cache(cache.root, cache.signers).last_good() == made.id
    shutil.rmtree(cache.path(made.id))
    assert cache.last_good() is None
    (cache.root / "last-good").write_text("../../etc\n")
    assert cache.last_good() is None


def test_cleaner_spares_what_is_named_served_used_or_recent(store: Store, cache: Cache, publish: Publish) -> None:
    named, served, used, recent, old = (publish({"a.py": str(number)}).id for number in range(5))
    for release_id in (named, served, used, recent, old):
        cache.copy(store.root, release_id)
        use = cache.use(release_id)
        assert use is not None
        use.close()
        os.utime(cache.root / ".use" / release_id, (time.time() - 9000,) * 2)
    cache.remember(served)
    held = cache.use(used)
    os.utime(cache.root / ".use" / used, (time.time() - 9000,) * 2)
    again = cache.use(recent)
    assert held is not None
    assert again is not None
    again.close()
    assert cache.clean([named], 3600) == [old]
    assert set(cache.ids()) == {named, served, used, recent}
    held.close()
    assert cache.clean([named], 3600) == [used]


def test_copy_is_held_by_a_process_forked_from_its_user(store: Store, cache: Cache, publish: Publish) -> None:
    made = publish(FILES)
    cache.copy(store.root, made.id)
    held = cache.use(made.id)
    assert held is not None
    woken, wake = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(wake)
        os.read(woken, 1)
        os._exit(0)
    held.close()
    try:
        assert cache.clean([], -1) == []
    finally:
        os.close(wake)
        os.waitpid(child, 0)
    assert cache.clean([], -1) == [made.id]


def test_use_without_a_copy_is_none_and_without_a_share_is_quick(store: Store, cache: Cache, publish: Publish) -> None:
    made = publish(FILES)
    assert cache.use(made.id) is None
    cache.copy(store.root, made.id)
    shutil.rmtree(store.root)
    began = time.monotonic()
    for _ in range(100):
        use = cache.use(made.id)
        assert use is not None
        use.close()
    assert time.monotonic() - began < 10


def test_share_that_was_lost_gets_back_what_this_host_has(store: Store, cache: Cache, publish: Publish) -> None:
    one, two = publish({"a.py": "1", "ü/b.py": "2"}), publish({"a.py": "3"})
    store.flip(two.id)
    for made in (one, two):
        cache.copy(store.root, made.id)
    cache.remember(two.id)
    shutil.rmtree(store.root)
    store.root.mkdir()
    words = [
        "--share",
        str(store.root),
        "--cache",
        str(cache.root),
        "--signers",
        str(cache.signers),
        "--publisher",
        "root",
        "restore",
    ]
    command = [sys.executable, "-m", "ops_agent.main", "release", *words]
    answers = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(2)]
    assert answers[0] == {"restored": [one.id, two.id], "current": two.id}
    assert answers[1] == {"restored": [], "current": two.id}
    assert [store.load(made.id) for made in (one, two)] == [one, two]
    assert contents(store.path(one.id) / "dags") == {"a.py": "1", "ü/b.py": "2"}


def test_copy_that_was_changed_is_not_put_back(store: Store, cache: Cache, publish: Publish) -> None:
    made = publish({"a.py": "1"})
    cache.copy(store.root, made.id)
    shutil.rmtree(store.root)
    store.root.mkdir()
    (cache.path(made.id) / "dags/a.py").write_text("evil")
    words = [
        "--share",
        str(store.root),
        "--cache",
        str(cache.root),
        "--signers",
        str(cache.signers),
        "--publisher",
        "root",
        "restore",
    ]
    command = [sys.executable, "-m", "ops_agent.main", "release", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{made.id} is not what was published" in done.stderr
    assert not list(store.releases.iterdir())


def test_verbs_print_one_object_and_refuse_in_one_line(store: Store, cache: Cache, publish: Publish) -> None:
    made = publish(FILES)
    words = [
        "--share",
        str(store.root),
        "--cache",
        str(cache.root),
        "--signers",
        str(cache.signers),
        "--publisher",
        "root",
        "--service-user",
        "root",
    ]

    def agent(*verb: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ops_agent.main", "release", *words, *verb]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert json.loads(agent("flip", made.id).stdout)["changed"] is True
    warm = json.loads(agent("warm").stdout)
    assert (warm["release"], warm["copied"]) == (made.id, True)
    status = json.loads(agent("status").stdout)
    assert (status["share"], status["current"], status["cache"]["releases"]) == ("", made.id, [made.id])
    for verb in (["flip", "20260102T030405Z-abcdef0"], ["show", "x"], ["prune", "--keep", "0"]):
        refused = agent(*verb)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)


def test_release_that_is_gone_for_good_is_told_from_a_share_that_is_away(
    store: Store, cache: Cache, publish: Publish
) -> None:
    kept, gone = publish(FILES), publish({"a.py": "gone"})
    words = ["--share", str(store.root), "--cache", str(cache.root), "--signers", str(cache.signers)]
    command = [sys.executable, "-m", "ops_agent.main", "release", *words, "--service-user", "root", "warm", gone.id]

    def warm() -> int:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode

    store.flip(kept.id)
    shutil.rmtree(store.path(gone.id))
    assert warm() == 4
    away = store.root.with_name("away")
    store.root.rename(away)
    assert warm() == 1
    # Mounted nowhere, or a new and empty disk: what was on it may come back.
    store.root.mkdir()
    assert warm() == 1
    store.root.rmdir()
    away.rename(store.root)
    shutil.rmtree(store.path(kept.id))
    assert warm() == 1


def test_copy_that_was_damaged_is_made_anew_by_the_next_warm(store: Store, cache: Cache, publish: Publish) -> None:
    made = publish(FILES)
    cache.copy(store.root, made.id)
    words = ["--share", str(store.root), "--cache", str(cache.root), "--signers", str(cache.signers)]
    command = [sys.executable, "-m", "ops_agent.main", "release", *words, "--service-user", "root", "warm", made.id]

    def copied() -> bool:
        return bool(json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["copied"])

    assert not copied()
    (cache.path(made.id) / "dags/dag.py").write_text("evil")
    assert copied()
    assert contents(cache.path(made.id) / "dags") == FILES
    # Neither does a manifest that was changed with its file pass.
    text = (cache.path(made.id) / "manifest.json").read_text()
    (cache.path(made.id) / "manifest.json").write_text(text.replace('"first"', '"evil"'))
    assert cache.verify(made.id) == ["manifest.json is not what was signed"]
    assert copied()
    assert not copied()
