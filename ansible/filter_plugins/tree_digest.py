"""The filter `tree_digest`: one digest for the content of files and directories on the control node."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_GENERATED = {"__pycache__", ".mypy_cache", ".ruff_cache"}


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    if root.is_file():
        yield root.name, root
        return
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.is_file() and not _GENERATED.intersection(relative.parts):
            yield f"{root.name}/{relative}", path


def tree_digest(paths: str | list[str]) -> str:
    """Return the SHA-256 (hex) of the names and contents below the paths.

    Modes and times do not count: two checkouts of one commit have one digest.
    Raises FileNotFoundError for a path that does not exist.
    """
    digest = hashlib.sha256()
    for root in [paths] if isinstance(paths, str) else paths:
        if not Path(root).exists():
            raise FileNotFoundError(root)
        for name, path in _files(Path(root)):
            content = path.read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return the filters by name."""
        return {"tree_digest": tree_digest}
