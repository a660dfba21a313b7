import os
import subprocess
import sys
from pathlib import Path


def build(root: Path, target: Path) -> str:
    script = root / "roles" / "ops_agent" / "files" / "build_agent.py"
    command = [sys.executable, str(script), str(target), str(root / "ops_agent"), str(root / "ops_release")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_build_makes_the_same_bytes_whenever_it_runs(root: Path, tmp_path: Path) -> None:
    assert build(root, tmp_path / "one") == "built"
    os.utime(root / "ops_agent" / "main.py")
    assert build(root, tmp_path / "two") == "built"
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_build_leaves_an_unchanged_file_alone(root: Path, tmp_path: Path) -> None:
    build(root, tmp_path / "agent")
    before = (tmp_path / "agent").stat().st_mtime_ns
    assert build(root, tmp_path / "agent") == "unchanged"
    assert (tmp_path / "agent").stat().st_mtime_ns == before


def test_built_file_runs_with_the_standard_library_alone(root: Path, tmp_path: Path) -> None:
    build(root, tmp_path / "agent")
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(tmp_path / "agent"), "--help"], check=True, capture_output=True
    )
    assert b"status" in done.stdout
