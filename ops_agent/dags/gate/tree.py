"""What a tree of DAG files may hold, and which of its files Airflow would import."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ops_agent.dags.gate.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def check(tree: Path) -> Iterator[Finding]:
    """Find links that leave the tree or lead nowhere, and what is neither a file nor a directory."""
    root = tree.resolve()
    for directory, names, files in os.walk(root):
        for name in sorted([*names, *files]):
            path = type(root)(directory, name)
            file = str(path.relative_to(root))
            if path.is_symlink():
                target = path.resolve()
                if not target.is_relative_to(root):
                    yield Finding(file, 1, "symlink", f"links to {path.readlink()}, which is outside of the tree")
                elif not target.exists():
                    yield Finding(file, 1, "symlink", f"links to {path.readlink()}, which does not exist")
            elif not path.is_dir() and not path.is_file():
                yield Finding(file, 1, "symlink", "is neither a file nor a directory")


def dag_files(tree: Path) -> list[Path]:
    """Return the files that Airflow takes for DAG files: its own heuristic, and .airflowignore."""
    from airflow.dag_processing.importers import get_importer_registry  # noqa: PLC0415

    found = get_importer_registry().list_dag_files(str(tree), safe_mode=True)
    return sorted(type(tree)(path) for path in found)
