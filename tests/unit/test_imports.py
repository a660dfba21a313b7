"""The borders between the packages, and the one module that may cross each."""

import ast
from pathlib import Path

import pytest


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(
    ("package", "forbidden"), [("ops_cli", {"ops_agent", "airflow"}), ("ops_agent", {"ops_cli", "fabric", "rich"})]
)
def test_package_does_not_import_across_its_border(root: Path, package: str, forbidden: set[str]) -> None:
    crossing = {path.name: imported(path) & forbidden for path in (root / package).glob("*.py")}
    assert {name: names for name, names in crossing.items() if names} == {}


def test_fabric_is_imported_by_one_module_alone(root: Path) -> None:
    assert [path.name for path in (root / "ops_cli").glob("*.py") if "fabric" in imported(path)] == ["remote.py"]
