import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from ops_agent.dags import judged, stream
from ops_release import ReleaseError
from ops_release.manifest import content_digest

# The gate reads what comes on standard input, so it is a process of its own.
UNPACK = """
import json, sys
from pathlib import Path
from ops_agent.dags import judged
from ops_release import ReleaseError
root, digest, meddle = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
try:
    with judged.unpacked(root) as work:
        seen = sorted(str(path.relative_to(work)) for path in work.rglob("*"))
        if meddle:
            (work / "dags" / meddle).write_text("another")
        if digest:
            judged.keep(work, digest, {"findings": []}, root)
        print(json.dumps({"seen": seen, "mode": oct((work / "dags/a.py").stat().st_mode) if not digest else ""}))
except ReleaseError as error:
    sys.exit(str(error))
"""


def packed(files: dict[str, str], mode: int = 0o644) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), mode
            archive.addfile(member, io.BytesIO(text.encode()))
    return sink.getvalue()


def digest(directory: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return content_digest(*stream.contents(directory / "dags"))


def unpack(root: Path, data: bytes, kept: str = "", meddle: str = "") -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-c", UNPACK, str(root), kept, meddle]
    return subprocess.run(words, input=data, capture_output=True, check=False, timeout=60)


TREE = {"dags/a.py": "x = 1\n", "dags/b/c.py": ""}


def test_tree_is_there_for_the_gate_and_gone_afterwards(tmp_path: Path) -> None:
    done = unpack(tmp_path / "gate", packed(TREE, mode=0o4777))
    said = json.loads(done.stdout)
    assert said["seen"] == ["dags", "dags/a.py", "dags/b", "dags/b/c.py"]
    # Not the modes it came with: the caller's setuid file would be root's.
    assert int(said["mode"], 8) & 0o7022 == 0
    assert list((tmp_path / "gate").iterdir()) == []


def test_what_was_let_through_is_published_with_its_report_once(tmp_path: Path) -> None:
    root, wanted = tmp_path / "gate", digest(tmp_path, TREE)
    assert unpack(root, packed(TREE), wanted).returncode == 0
    assert (root / wanted).stat().st_mode & 0o077 == 0
    with judged.taken(wanted, root) as (tree, report):
        assert (content_digest(*stream.contents(tree)), report) == (wanted, {"findings": []})
    with pytest.raises(ReleaseError, match="let no tree"), judged.taken(wanted, root):
        pass


@pytest.mark.parametrize("meddle", ["a.py", "more.py"])
def test_tree_of_other_bytes_than_were_sent_is_not_kept(tmp_path: Path, meddle: str) -> None:
    done = unpack(tmp_path / "gate", packed(TREE), digest(tmp_path, TREE), meddle)
    assert b"nothing was kept" in done.stderr
    assert list((tmp_path / "gate").iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"no tar", packed(TREE)[:700], packed({"other/a.py": "x"}), bytes(range(99))])
def test_what_is_no_tree_leaves_nothing(tmp_path: Path, data: bytes) -> None:
    done = unpack(tmp_path / "gate", data)
    assert done.returncode == 1
    assert b"what came is no archive of DAG files" in done.stderr
    assert list((tmp_path / "gate").iterdir()) == []


def test_what_nobody_published_is_removed_after_a_day(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for kept in (old, new):
        kept.mkdir()
    os.utime(old, (0, time.time() - 90000))
    unpack(tmp_path, packed(TREE))
    assert list(tmp_path.iterdir()) == [new]


def test_tree_that_another_gate_takes_away_meanwhile_is_passed_over(tmp_path: Path) -> None:
    # Listed and not there, as what another gate has just finished with.
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    done = unpack(tmp_path, packed(TREE))
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("wanted", ["", "..", "../../etc", "f" * 64])
def test_digest_that_names_no_tree_is_refused(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(ReleaseError, match="let no tree"), judged.taken(wanted, tmp_path):
        pass
