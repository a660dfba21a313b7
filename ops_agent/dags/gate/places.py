"""Finds the line to show for something that Airflow only knows by name."""

from __future__ import annotations

import ast
import re
from functools import lru_cache

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


@lru_cache(maxsize=8)
def names(source: str) -> dict[str, int]:
    """Return the first line of each string constant and function of the source; empty if it does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = min(node.lineno, found.get(node.name, node.lineno))
    # A literal id tells more than a function of the same name.
    literals: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            literals[node.value] = min(node.lineno, literals.get(node.value, node.lineno))
    return found | literals


def frames(text: str, root: str) -> list[tuple[str, int]]:
    """Return (file relative to root, line) for the lines of a traceback that are in the tree, outermost first."""
    inside = [match for match in _FRAME.finditer(text) if match["file"].startswith(root + "/")]
    return [(match["file"].removeprefix(root + "/"), int(match["line"])) for match in inside]
