"""Who may import whom: the table of docs/adr/0010-one-house.md, downwards only."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Where it runs picks the package; a package sees itself and these.
BORDERS = {
    "ops_cli": set(),
    "ops_agent": {"ops_release"},
    "ops_airflow": {"ops_release"},
    "ops_release": set(),
}
# What a folder sees of its own package besides itself; a folder that is not named is a subject.
LAYERS = {
    "ops_cli": (["reference"], ["main"], ["commands"], ["health"], None, ["fleet"], ["console"]),
    "ops_agent": (["main"], ["verbs"], None, ["host"]),
    "ops_airflow": (None,),
}
# What Debian's Python or Airflow's alone has is imported where it is needed, and what a package does without is named.
FOREIGN = {
    "ops_cli": {"airflow", "psycopg", "psycopg2"},
    "ops_agent": {"fabric", "paramiko", "click", "rich"},
    "ops_airflow": {"fabric", "paramiko", "click", "rich", "pyarrow"},
}
PACKAGES = sorted(BORDERS)


def sources(root: Path, package: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield every module of a package, at any depth, by its dotted name."""
    for path in sorted((root / package).rglob("*.py")):
        yield ".".join(path.relative_to(root).with_suffix("").parts), ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the full name of whatever a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rank(name: str) -> tuple[int, str]:
    """Return how far down a module's folder is in its package, and the folder."""
    package, folder, *_ = [*name.split("."), ""]
    layers = LAYERS[package]
    named = next((depth for depth, layer in enumerate(layers) if layer and folder in layer), None)
    return layers.index(None) if named is None else named, folder


def allowed(importer: str, target: str) -> bool:
    (above, mine), (below, other) = rank(importer), rank(target)
    return above < below or mine == other


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_across_its_border_only_what_the_table_allows(root: Path, package: str) -> None:
    forbidden = BORDERS.keys() - BORDERS[package] - {package}
    crossing = [
        f"{name} imports {target}"
        for name, tree in sources(root, package)
        for target in imported(tree)
        if target.split(".")[0] in forbidden
    ]
    assert crossing == []


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_a_package_imports_downwards_and_no_subject_another(root: Path, package: str) -> None:
    upwards = [
        f"{name} imports {target}"
        for name, tree in sources(root, package)
        for target in imported(tree)
        if target.startswith(f"{package}.") and not allowed(name, target)
    ]
    assert upwards == []


@pytest.mark.parametrize("package", sorted(FOREIGN))
def test_a_package_does_without_the_libraries_of_the_others(root: Path, package: str) -> None:
    wrong = [
        f"{name} imports {target}"
        for name, tree in sources(root, package)
        for target in imported(tree)
        if target.split(".")[0] in FOREIGN[package]
    ]
    assert wrong == []


def test_what_a_release_is_needs_the_standard_library_alone(root: Path) -> None:
    tops = [
        f"{name} imports {target}"
        for name, tree in sources(root, "ops_release")
        for target in imported(ast.Module([node for node in tree.body if not isinstance(node, ast.If)], []))
        if target.split(".")[0] not in {*sys.stdlib_module_names, "ops_release"}
    ]
    # One late import: the database's driver, which Airflow's environment alone has.
    assert tops == ["ops_release.database imports psycopg2"]


def test_commands_do_not_import_each_other(root: Path) -> None:
    for package, folder in (("ops_cli", "commands"), ("ops_agent", "verbs")):
        own = f"{package}.{folder}."
        wrong = [
            f"{name} imports {target}"
            for name, tree in sources(root, package)
            for target in imported(tree)
            if name.startswith(own) and target.startswith(own)
        ]
        assert wrong == []


def test_fabric_is_imported_by_one_module_alone(root: Path) -> None:
    names = {name for name, tree in sources(root, "ops_cli") for target in imported(tree) if "fabric" in target}
    assert names == {"ops_cli.fleet.ssh"}


def test_every_folder_of_modules_is_a_package(root: Path) -> None:
    folders = {path.parent for package in PACKAGES for path in (root / package).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []
