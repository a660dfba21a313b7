"""What a tree of DAG files may hold, and which of its files Airflow would import."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from ops_agent.dags.gate.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

# Airflow reads every one of them whole, many times a minute.
_LARGEST_BYTES = 32 << 20
_IGNORE = ".airflowignore"


def check(tree: Path) -> Iterator[Finding]:
    """Find links that leave the tree or lead nowhere, what cannot be read, and what is no file and no directory."""
    root = tree.resolve()
    for directory, names, files in os.walk(root):
        for name in sorted([*names, *files]):
            path = type(root)(directory, name)
            for rule, text in _broken(path, root):
                yield _finding(path, root, rule, text)


def dag_files(tree: Path) -> tuple[list[Path], list[Finding]]:
    """Return the files that Airflow takes for DAG files (its own heuristic, and .airflowignore), or why it cannot tell.

    What no importer of Airflow's is for (a table or a library in a zip container) is passed over, as it does.
    """
    root = tree.resolve()
    if unlistable := list(_unlistable(root)):
        return [], unlistable
    from airflow.dag_processing.importers import get_importer_registry  # noqa: PLC0415

    registry = get_importer_registry()
    try:
        found = [type(tree)(path) for path in registry.list_dag_files(str(root), safe_mode=True)]
    except RuntimeError:
        # It follows links, and gives up at the first directory that it comes to twice.
        links = (path for path in _directory_links(root))
        return [], [_finding(path, root, "symlink", _twice(path)) for path in links]
    # A file behind a link that leaves the tree is not part of it.
    mine = sorted(path for path in found if registry.can_handle(path) and path.resolve().is_relative_to(root))
    misnamed = [path for path in mine if not _plain(str(path.relative_to(root)))]
    text = "has a name that is no printable text, and no log could tell it from another"
    return sorted(set(mine) - set(misnamed)), [_finding(path, root, "name", text) for path in misnamed]


def printable(path: Path) -> str:
    """Return a path as text; what is no character, or would move the cursor, is written as an escape."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if _plain(c) else c.encode("unicode_escape").decode() for c in text)


def _finding(path: Path, root: Path, rule: str, text: str) -> Finding:
    return Finding(printable(path.relative_to(root)), 1, rule, text)


def _broken(path: Path, root: Path) -> Iterator[tuple[str, str]]:
    if path.is_symlink():
        # Not by resolve(), which raises for a link to itself before Python 3.13.
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(root):
            yield "symlink", f"links to {_link(path)}, which is outside of the tree"
        elif not os.path.exists(path):  # noqa: PTH110
            yield "symlink", f"links to {_link(path)}, which does not exist"
    elif not path.is_dir() and not path.is_file():
        yield "symlink", "is neither a file nor a directory"
    elif not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        yield "unreadable", "cannot be read by the user that Airflow runs as"


def _unlistable(root: Path) -> Iterator[Finding]:
    """Find what would lead Airflow's own listing away, or end it."""
    for path in _directory_links(root):
        if not Path(os.path.realpath(path)).is_relative_to(root):
            # Said by `check`; to follow it could mean to read a whole disk.
            yield _finding(path, root, "symlink", f"links to {_link(path)}, which is outside of the tree")
    for directory, _, files in os.walk(root):
        for path in (Path(directory, name) for name in files):
            if path.name == _IGNORE and (reason := _undecodable(path)):
                yield _finding(path, root, "unreadable", reason)
            elif path.suffix == ".py" and path.is_file() and path.stat().st_size > _LARGEST_BYTES:
                size = path.stat().st_size >> 20
                yield _finding(path, root, "memory", f"has {size} MiB, {_LARGEST_BYTES >> 20} are allowed")


def _directory_links(root: Path) -> Iterator[Path]:
    for directory, names, _ in os.walk(root):
        for path in (Path(directory, name) for name in sorted(names)):
            if path.is_symlink():
                yield path


def _undecodable(path: Path) -> str:
    try:
        if path.is_file():
            path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"cannot be read: {error}"
    return ""


def _twice(path: Path) -> str:
    return f"links to {_link(path)}, a directory of this tree, which Airflow would come to twice and then read nothing"


def _link(path: Path) -> str:
    return printable(path.readlink())


def _plain(text: str) -> bool:
    return not any(unicodedata.category(character) in {"Cc", "Cs"} for character in text)
