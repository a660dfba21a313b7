from typing import Any

from ops_agent import adopt
from ops_agent.release.manifest import File, Manifest


def release(*dags: tuple[str, str, tuple[str, ...]], gate: bool = True, **files: str) -> Manifest:
    described: list[dict[str, Any]] = [
        {"dag_id": dag_id, "hash": digest, "file": f"{dag_id}.py", "files": list(imports)}
        for dag_id, digest, imports in dags
    ]
    return Manifest(
        id="x",
        created="",
        author="",
        message="",
        digest="",
        validation={"dags": described} if gate else None,
        files={f"{name}.py": File(content, 1) for name, content in files.items()},
    )


def test_dag_is_unchanged_if_it_and_everything_it_imports_is() -> None:
    old = release(
        ("same", "1", ("same.py", "lib.py")),
        ("other", "1", ("other.py", "common.py")),
        ("hash", "1", ("hash.py",)),
        ("gone", "1", ("gone.py",)),
        ("more", "1", ("more.py",)),
        same="s",
        other="o",
        hash="h",
        more="m",
        lib="1",
        common="1",
    )
    new = release(
        ("same", "1", ("same.py", "lib.py")),
        ("other", "1", ("other.py", "common.py")),
        ("hash", "2", ("hash.py",)),
        ("more", "1", ("more.py", "lib.py")),
        same="s",
        other="o",
        hash="h",
        more="m",
        lib="1",
        common="2",
    )
    assert adopt.unchanged(old, new) == ["same"]


def test_dag_that_moves_is_changed() -> None:
    old = release(("a", "1", ("a.py",)), a="x")
    new = release(("a", "1", ("a.py",)), a="x")
    assert new.validation
    new.validation["dags"][0]["file"] = "b.py"
    assert adopt.unchanged(old, new) == []


def test_nothing_is_known_of_a_release_without_the_gate() -> None:
    with_gate = release(("a", "1", ("a.py",)), a="x")
    assert adopt.unchanged(with_gate, with_gate) == ["a"]
    assert adopt.unchanged(release(gate=False, a="x"), with_gate) == []
    assert adopt.unchanged(with_gate, release(gate=False, a="x")) == []
