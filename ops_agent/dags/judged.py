"""Trees that this host's gate is to judge, and those that it has let through, until they are published or too old.

They are root's, and nobody else may write them: what is published is byte for byte what was judged.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops_agent.dags.stream import contents
from ops_release import ReleaseError
from ops_release.manifest import DAGS, content_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path("/var/lib/airfleet-gate")
_REPORT = "report.json"
# Between a gate and its publishing there may be somebody who is asked.
_KEEP_SECONDS = 86400


@contextmanager
def unpacked(root: Path = ROOT) -> Iterator[Path]:
    """Unpack the tree on standard input into a directory that is gone after the block, unless it was kept.

    Raises ReleaseError if what came is no archive with a folder of DAGs.
    """
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    # What a reboot cut off, and what nobody published.
    for left in root.iterdir():
        # Another gate may be taking its own away at this moment.
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _KEEP_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix="new-", dir=root))
    try:
        # The gate itself runs as nobody of this host.
        work.chmod(0o755)
        plain = ["--no-same-owner", "--no-same-permissions"]
        words = ["tar", "--extract", *plain, "--file", "-", "--directory", str(work)]
        done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode or not (work / DAGS).is_dir():
            raise ReleaseError(f"what came is no archive of DAG files: {' '.join(done.stderr.split())}".rstrip(": "))
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def keep(work: Path, digest: str, report: dict[str, Any], root: Path = ROOT) -> None:
    """Keep a tree that the gate has let through, by its digest, with the gate's report.

    Raises ReleaseError if its content has another digest than whoever sent it says.
    """
    if (found := content_digest(*contents(work / DAGS))) != digest:
        raise ReleaseError(f"what came has the digest {found}, what was sent {digest}: nothing was kept")
    (work / _REPORT).write_text(json.dumps(report), encoding="utf-8")
    # The gate is over: from here on it is root's alone.
    work.chmod(0o700)
    shutil.rmtree(root / digest, ignore_errors=True)
    work.rename(root / digest)


@contextmanager
def taken(digest: str, root: Path = ROOT) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Give a kept tree and its report for a block, after which they are gone. Raises ReleaseError if there is none."""
    kept = root / digest
    if not digest.isalnum() or not kept.is_dir():
        raise ReleaseError(f"the gate of this host has let no tree {digest} through, or long ago; deploy it again")
    try:
        yield kept / DAGS, json.loads((kept / _REPORT).read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(kept, ignore_errors=True)
