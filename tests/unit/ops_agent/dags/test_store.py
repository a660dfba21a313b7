"""Publishing, flipping and pruning: whole or not at all."""

import errno
import io
import json
import os
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops_agent.dags import stream as archive
from ops_agent.dags.store import Store
from ops_release import ReleaseError, durable
from ops_release.diff import changes
from ops_release.manifest import Manifest, content_digest, load, parse
from ops_release.share import current_within, refuse_silence
from tests.unit.ops_agent.dags.conftest import HEADER, Publish, contents, stream, write

NAMES = {"dag.py": "one", "with space.py": "two", "größe/日本.py": "three", "pkg/__init__.py": ""}


def empty(store: Store) -> bool:
    return not list(store.releases.iterdir()) and not list(store.staging.iterdir())


def crafted(*members: tuple[tarfile.TarInfo, bytes], digest: str = "0" * 64) -> io.BytesIO:
    """Return a stream that our own packer would never write."""
    sink = io.BytesIO()
    header = json.dumps(HEADER | {"digest": digest}).encode()
    with tarfile.open(fileobj=sink, mode="w|") as out:
        first = tarfile.TarInfo("release.json")
        first.size = len(header)
        out.addfile(first, io.BytesIO(header))
        for member, content in members:
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    sink.seek(0)
    return sink


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def test_release_has_every_file_and_says_what_it_is(store: Store, publish: Publish) -> None:
    made = publish(NAMES)
    assert contents(store.path(made.id) / "dags") == NAMES
    assert load(store.path(made.id)) == made
    assert made.id.endswith("-aaaaaaaaaaaa")
    assert (made.author, made.message, made.parent, made.dirty) == ("ann", "first", None, False)
    assert not list(store.staging.iterdir())
    assert store.current() is None


def test_release_is_readable_by_airflow_whatever_the_umask_was(store: Store, tmp_path: Path) -> None:
    tree = write(tmp_path / "tree", {"a/run.sh": "x"})
    (tree / "a/run.sh").chmod(0o700)
    old = os.umask(0o022)
    try:
        made = store.publish(stream(tree))
    finally:
        os.umask(old)
    assert (store.path(made.id) / "dags/a/run.sh").stat().st_mode & 0o777 == 0o755
    assert (store.path(made.id) / "dags/a").stat().st_mode & 0o777 == 0o755
    assert made.files["a/run.sh"].executable


def test_bytecode_and_version_control_are_left_out(store: Store, publish: Publish) -> None:
    made = publish({"a.py": "1", "__pycache__/a.pyc": "x", "b.pyc": "x", ".git/HEAD": "x"})
    assert contents(store.path(made.id) / "dags") == {"a.py": "1"}


def test_ids_of_one_second_differ_and_sort(store: Store, tmp_path: Path) -> None:
    tree, now = write(tmp_path / "tree", {"a.py": "1"}), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    made = [store.publish(stream(tree), lambda: now).id for _ in range(3)]
    assert made == sorted(set(made))
    assert made[0] == "20260102T030405Z-aaaaaaaaaaaa"


def test_id_without_a_commit_is_of_the_content(store: Store, tmp_path: Path) -> None:
    made = store.publish(stream(write(tmp_path / "tree", {"a.py": "1"}), commit=""))
    assert made.id.endswith("-" + made.digest[:12])


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
def test_stream_that_was_cut_off_publishes_nothing(store: Store, tmp_path: Path, cut: float) -> None:
    tree = write(tmp_path / "tree", {f"d{n}.py": "x" * 5000 for n in range(20)})
    whole = stream(tree).getvalue()
    with pytest.raises(ReleaseError):
        store.publish(io.BytesIO(whole[: int(len(whole) * cut)]))
    assert empty(store)


def test_stream_cut_between_two_files_is_not_taken_for_a_whole_one(store: Store) -> None:
    with pytest.raises(ReleaseError, match="not what was sent"):
        store.publish(crafted((member("dags/a.py"), b"1")))
    assert empty(store)


UNFIT = {
    "outside": (member("dags/../../evil.py"), b"x", "not a plain path"),
    "absolute": (member("/etc/evil"), b"x", "neither release.json nor below dags"),
    "elsewhere": (member("evil.py"), b"x", "neither release.json nor below dags"),
    "hard link": (member("dags/b.py", tarfile.LNKTYPE, "dags/a.py"), b"", "neither a file nor a symlink"),
    "device": (member("dags/null", tarfile.CHRTYPE), b"", "neither a file nor a symlink"),
    "twice": (member("dags/a.py"), b"x", "twice"),
    "below a file": (member("dags/a.py/b.py"), b"x", "both a file and a directory"),
    "line break": (member("dags/a\nb.py"), b"x", "cannot be printed"),
    "not utf-8": (member("dags/\udcff.py"), b"x", "cannot be printed"),
    "absolute link": (member("dags/l", tarfile.SYMTYPE, "/etc/passwd"), b"", "absolute path"),
    "link that leaves": (member("dags/l", tarfile.SYMTYPE, "../../../etc"), b"", "leads"),
    "dangling link": (member("dags/l", tarfile.SYMTYPE, "gone.py"), b"", "leads nowhere"),
    "link to itself": (member("dags/l", tarfile.SYMTYPE, "l"), b"", "leads nowhere"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_may_not_be_in_a_release_is_refused_by_name(store: Store, case: str) -> None:
    odd, content, words = UNFIT[case]
    with pytest.raises(ReleaseError, match=words):
        store.publish(crafted((member("dags/a.py"), b"1"), (odd, content)))
    assert empty(store)


def test_link_cannot_leave_through_another_link(store: Store) -> None:
    links = [("dags/d/e/up", "../.."), ("dags/x", "d/e/up/../../../lock")]
    (store.root / "lock").touch()
    members = [(member(name, tarfile.SYMTYPE, target), b"") for name, target in links]
    with pytest.raises(ReleaseError, match="leads out of the release"):
        store.publish(crafted((member("dags/d/e/a.py"), b"1"), *members))
    assert empty(store)


def test_no_file_is_written_through_a_link(store: Store, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    members = [(member("dags/l", tarfile.SYMTYPE, str(tmp_path / "victim")), b""), (member("dags/l/evil.py"), b"x")]
    with pytest.raises(ReleaseError, match="both a symlink and a directory"):
        store.publish(crafted(*members))
    assert not list((tmp_path / "victim").iterdir())


def test_link_within_the_release_is_kept(store: Store, tmp_path: Path) -> None:
    tree = write(tmp_path / "tree", {"shared/a.py": "1"})
    (tree / "b.py").symlink_to("shared/a.py")
    (tree / "dir").symlink_to("shared")
    made = store.publish(stream(tree))
    assert made.links == {"b.py": "shared/a.py", "dir": "shared"}
    assert (store.path(made.id) / "dags/dir/a.py").read_text() == "1"


@pytest.mark.parametrize("header", [{"author": 1}, {"surprise": 1}, {"commit": None}, {"validation": []}])
def test_header_with_unusable_entries_is_refused(store: Store, tmp_path: Path, header: dict[str, Any]) -> None:
    with pytest.raises(ReleaseError, match=next(iter(header))):
        store.publish(stream(write(tmp_path / "tree", {"a.py": "1"}), **header))


def test_commit_that_is_no_hash_is_refused_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no release id"):
        store.publish(stream(write(tmp_path / "tree", {"a.py": "1"}), commit="../../etc"))
    assert empty(store)


def test_empty_release_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(ReleaseError, match="would remove every DAG"):
        store.publish(stream(tmp_path / "tree"))


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "it is full"), (errno.EROFS, "read-only"), (errno.EDQUOT, "quota")]
)
def test_share_that_takes_no_more_is_named_and_nothing_is_left(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def full(_: Path) -> None:
        raise OSError(code, "refused")

    monkeypatch.setattr(durable, "sync_directories", full)
    with pytest.raises(ReleaseError, match=words):
        store.publish(stream(write(tmp_path / "tree", {"a.py": "1"})))
    assert empty(store)


def test_two_publishers_at_once_are_refused(store: Store) -> None:
    with store.writing(), pytest.raises(ReleaseError, match="another process"), store.writing():
        pass


def test_flip_names_what_was_and_is(store: Store, publish: Publish) -> None:
    one, two = publish({"a.py": "1"}), publish({"a.py": "2"})
    assert store.flip(one.id) == {"release": one.id, "previous": None, "changed": True}
    assert store.flip(two.id) == {"release": two.id, "previous": one.id, "changed": True}
    assert store.flip(two.id) == {"release": two.id, "previous": one.id, "changed": False}
    assert (store.current(), store.previous()) == (two.id, one.id)
    assert publish({"a.py": "3"}).parent == two.id


def test_flip_refuses_what_is_no_release(store: Store, publish: Publish) -> None:
    one = publish({"a.py": "1"})
    with pytest.raises(ReleaseError, match="no release id"):
        store.flip("../../etc")
    with pytest.raises(ReleaseError, match="there is no release"):
        store.flip("20260102T030405Z-abcdef0")
    (store.path(one.id) / "manifest.json").write_text("{")
    with pytest.raises(ReleaseError, match="damaged manifest"):
        store.flip(one.id)
    assert store.current() is None


def test_prune_keeps_what_is_needed_and_says_why(store: Store, publish: Publish) -> None:
    made = [publish({"a.py": str(number)}).id for number in range(6)]
    store.flip(made[1])
    store.flip(made[2])
    answer = store.prune(1, {made[0]: ["2 unfinished runs"], "gone": ["1 unfinished run"]})
    assert answer["removed"] == [made[4], made[3]]
    assert {one["id"]: one["reasons"] for one in answer["kept"]} == {
        made[5]: ["one of the 1 newest"],
        made[2]: ["current"],
        made[1]: ["previous"],
        made[0]: ["2 unfinished runs"],
    }
    assert {one.id for one in store.all()} == {made[0], made[1], made[2], made[5]}


def test_prune_leaves_foreign_directories_alone(store: Store, publish: Publish) -> None:
    publish({"a.py": "1"})
    (store.releases / "0123456789ab").mkdir()
    store.prune(1, {})
    assert (store.releases / "0123456789ab").is_dir()


def test_damaged_release_is_listed_with_its_reason(store: Store, publish: Publish) -> None:
    one = publish({"a.py": "1"})
    (store.path(one.id) / "manifest.json").unlink()
    (listed,) = store.all()
    assert listed.manifest is None
    assert "no readable manifest" in listed.error


def test_diff_names_every_file(store: Store, publish: Publish) -> None:
    one, two = publish({"a.py": "1", "b.py": "1", "c.py": "1"}), publish({"a.py": "1", "b.py": "2", "d.py": "1"})
    assert changes(store.load(one.id), store.load(two.id)) == {
        "from": one.id,
        "to": two.id,
        "added": ["d.py"],
        "removed": ["c.py"],
        "changed": ["b.py"],
        "unchanged": 1,
    }


def test_current_is_read_in_time_and_faults_are_named(store: Store, publish: Publish) -> None:
    with pytest.raises(ReleaseError, match=r"nothing is mounted.*No such file"):
        current_within(store.root, 5)
    one = publish({"a.py": "1"})
    store.flip(one.id)
    assert current_within(store.root, 5) == one.id
    (store.root / "current").unlink()
    (store.root / "current").symlink_to("elsewhere/thing")
    with pytest.raises(ReleaseError, match="which is no release"):
        current_within(store.root, 5)


def test_share_that_hangs_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("readlink", "stat"):
        (tmp_path / name).write_text("#!/bin/sh\nexec sleep 60\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ReleaseError, match=r"no answer within 0\.2 s"):
        current_within(store.root, 0.2)
    with pytest.raises(ReleaseError, match="does not answer"):
        refuse_silence(store.root, 0.2)


PATHS = st.lists(
    st.text(
        st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["C", "Z"]), min_size=1, max_size=8
    ).filter(lambda part: part not in {".", "..", ".git", "__pycache__"} and not part.endswith(".pyc")),
    min_size=1,
    max_size=3,
).map("/".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(PATHS, st.binary(max_size=200), min_size=1, max_size=6))
def test_any_tree_arrives_as_it_was_sent(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    base = tmp_path_factory.mktemp("any")
    (base / "share").mkdir()
    store = Store(base / "share", base / "lock")
    kept = {}
    for name, content in files.items():
        try:
            (base / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (base / "tree" / name).write_bytes(content)
        except OSError:  # one name is the directory of another
            continue
        kept[name] = content
    made = store.publish(stream(base / "tree"))
    tree = store.path(made.id) / "dags"
    assert {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()} == kept
    assert parse(made.to_json()) == made
    assert made.digest == content_digest(made.files, {})


def test_manifest_of_another_format_is_refused(store: Store, publish: Publish) -> None:
    text = json.loads(publish({"a.py": "1"}).to_json())
    with pytest.raises(ReleaseError, match="format 2"):
        parse(json.dumps(text | {"format": 2}))
    with pytest.raises(ReleaseError, match="not a plain path"):
        parse(json.dumps(text | {"links": {"../x": "y"}}))
    assert isinstance(store.load(text["id"]), Manifest)


def test_file_that_changes_while_packed_is_found_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write(tmp_path / "tree", {"a.py": "1"})
    real = archive.hash_file

    def late(path: Path) -> Any:
        found = real(path)
        path.write_text("2")
        return found

    monkeypatch.setattr(archive, "hash_file", late)
    with pytest.raises(ReleaseError, match="not what was sent"):
        store.publish(stream(tree))
    assert empty(store)
