"""One digest a content, whatever the checkout."""

import runpy
from pathlib import Path

import pytest

tree_digest = runpy.run_path(str(Path(__file__).parents[3] / "ansible/filter_plugins/tree_digest.py"))["tree_digest"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "package"
    (root / "inner").mkdir(parents=True)
    (root / "one.py").write_text("1")
    (root / "inner" / "two.sql").write_text("2")
    return root


def test_digest_ignores_place_times_and_what_python_generates(tree: Path, tmp_path: Path) -> None:
    before = tree_digest(str(tree))
    moved = tmp_path / "elsewhere" / "package"
    moved.parent.mkdir()
    tree.rename(moved)
    (moved / "__pycache__").mkdir()
    (moved / "__pycache__" / "one.pyc").write_bytes(b"x")
    (moved / "one.py").touch()
    assert tree_digest([str(moved)]) == before


@pytest.mark.parametrize("change", ["content", "name", "addition", "shift"])
def test_digest_sees_every_change(tree: Path, change: str) -> None:
    before = tree_digest(str(tree))
    if change == "content":
        (tree / "one.py").write_text("3")
    elif change == "name":
        (tree / "one.py").rename(tree / "uno.py")
    elif change == "addition":
        (tree / "inner" / "empty").touch()
    else:  # the same bytes, cut elsewhere
        (tree / "one.py").write_text("12")
        (tree / "inner" / "two.sql").write_text("")
    assert tree_digest(str(tree)) != before


def test_digest_of_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tree_digest(str(tmp_path / "nothing"))
