"""A share, a cache and a tree of DAGs in a temporary directory."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops_agent.dags import stream as archive
from ops_agent.dags.store import Store
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


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "share").mkdir()
    return Store(tmp_path / "share", tmp_path / "lock")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    (tmp_path / "cache").mkdir()
    return Cache(tmp_path / "cache")


@pytest.fixture
def publish(store: Store, tmp_path: Path) -> Publish:
    count = iter(range(99))

    def one(files: dict[str, str]) -> Manifest:
        return store.publish(stream(write(tmp_path / f"tree{next(count)}", files)))

    return one
