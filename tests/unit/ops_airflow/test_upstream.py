"""Every place that replaces or calls other projects' insides is in the list that an upgrade starts from."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops_airflow import upstream

PLACES = ("ops_airflow", "ops_agent/dags/gate")
OTHERS = ("airflow", "celery", "kombu", "psycopg2")


def is_theirs(module: str | None) -> bool:
    return (module or "").split(".")[0] in OTHERS


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


class Uses(ast.NodeVisitor):
    """What one module does to names that it imported from other projects."""

    def __init__(self) -> None:
        self.imported: dict[str, str] = {}
        self.found: set[str] = set()

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if is_theirs(alias.name):
                self.imported[(alias.asname or alias.name).split(".")[0]] = alias.name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if is_theirs(node.module):
            for alias in node.names:
                self.imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                # A package whose name has an underscore is theirs to move, not a part that can be told by its text.
                if is_private(alias.name):
                    self.found.add(f"{node.module}.{alias.name}")

    def visit_Assign(self, node: ast.Assign) -> None:
        self.found |= {name for target in node.targets if (name := self.named(target))}
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if is_private(node.attr) and (name := self.named(node)):
            self.found.add(name)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        bases = [
            self.imported[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in self.imported
        ]
        for method in (each for each in node.body if isinstance(each, ast.FunctionDef)):
            if bases and any(self.is_super(call, method.name) for call in ast.walk(method)):
                self.found.add(f"{bases[0]}.{method.name}")
        self.generic_visit(node)

    def named(self, node: ast.AST) -> str:
        """Return the qualified name of an attribute of something imported, empty for anything else."""
        words: list[str] = []
        while isinstance(node, ast.Attribute):
            words.insert(0, node.attr)
            node = node.value
        known = self.imported.get(node.id, "") if isinstance(node, ast.Name) else ""
        return ".".join([known, *words]) if known and words else ""

    @staticmethod
    def is_super(call: ast.AST, method: str) -> bool:
        return ast.unparse(call).startswith(f"super().{method}(") if isinstance(call, ast.Call) else False


def uses(source: str) -> set[str]:
    visitor = Uses()
    visitor.visit(ast.parse(source))
    return visitor.found


def modules(root: Path) -> Iterator[Path]:
    for place in PLACES:
        yield from sorted((root / place).rglob("*.py"))


def test_every_use_of_upstream_insides_is_listed(root: Path) -> None:
    listed = {name for part in upstream.PARTS for name in (part.name, part.replaces)}
    unlisted = [
        f"{path.relative_to(root)}: {name}" for path in modules(root) for name in uses(path.read_text()) - listed
    ]
    assert unlisted == [], "add them to ops_airflow/upstream.py"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from airflow.a import B\nB._c = 1", "airflow.a.B._c"),
        ("from airflow import a as module\nmodule.time = 1", "airflow.a.time"),
        ("from airflow.a import B\nB._c()", "airflow.a.B._c"),
        ("from airflow.a import _b", "airflow.a._b"),
        ("from airflow.a import B\nclass C(B):\n  def d(self):\n    return super().d()", "airflow.a.B.d"),
    ],
)
def test_each_kind_of_use_is_seen(source: str, name: str) -> None:
    assert uses(source) == {name}


def test_list_names_each_part_once_with_a_digest_and_a_place() -> None:
    names = [part.name for part in upstream.PARTS]
    assert len(set(names)) == len(names)
    assert all(len(part.sha256) == 64 and part.place for part in upstream.PARTS)


def test_part_whose_text_changed_or_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    same = upstream.Part("json.dumps", upstream.digest("json.dumps"), "here")
    other = upstream.Part("json.loads", "0" * 64, "there")
    gone = upstream.Part("json.nothing", "0" * 64, "nowhere")
    monkeypatch.setattr(upstream, "PARTS", (same, other, gone))
    assert upstream.changed() == ["json.loads is another now (there)", "json.nothing is gone (nowhere)"]
