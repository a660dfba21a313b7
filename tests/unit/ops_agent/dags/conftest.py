"""A share, a cache and a tree of DAGs in a temporary directory."""

import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops_agent.dags import stream as archive
from ops_agent.dags.store import Store
from ops_release import signature
from ops_release.cache import Cache
from ops_release.manifest import Manifest

HEADER = {"author": "ann", "message": "first", "commit": "a" * 40}

Publish = Callable[[dict[str, str]], Manifest]


def stream(tree: Path, **header: Any) -> io.BytesIO:
    sink = io.BytesIO()
    archive.pack(tree, HEADER | header, sink)
    sink.seek(0)
    return sink


def write(tree: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    return tree


def contents(tree: Path) -> dict[str, str]:
    return {str(path.relative_to(tree)): path.read_text() for path in tree.rglob("*") if path.is_file()}


def signed(text: str, key: Path, namespace: str = signature.NAMESPACE) -> str:
    """Return what a control node's key says of a manifest."""
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", namespace]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def new_key(path: Path) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_key(tmp_path_factory.mktemp("keys") / "key")


@pytest.fixture
def signers(key: Path, tmp_path: Path) -> Path:
    path = tmp_path / "signers"
    path.write_text(f"{signature.PRINCIPAL} {key.with_suffix('.pub').read_text()}")
    return path


@pytest.fixture
def store(tmp_path: Path, signers: Path) -> Store:
    (tmp_path / "share").mkdir()
    return Store(tmp_path / "share", tmp_path / "lock", signers)


@pytest.fixture
def cache(tmp_path: Path, signers: Path) -> Cache:
    (tmp_path / "cache").mkdir()
    return Cache(tmp_path / "cache", signers)


@pytest.fixture
def publish(store: Store, tmp_path: Path, key: Path) -> Publish:
    """Publish a tree and sign it."""
    count = iter(range(99))

    def one(files: dict[str, str]) -> Manifest:
        made = store.publish(stream(write(tmp_path / f"tree{next(count)}", files)))
        store.sign(made.id, signed(store.text(made.id), key))
        return made

    return one
