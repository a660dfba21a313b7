from typing import Any

from ops_cli.dags import changes


def dag(dag_id: str, tasks: dict[str, tuple[str, str]], files: tuple[str, ...] = (), mark: str = "") -> dict[str, Any]:
    described = [{"task_id": name, "hash": digest, "queue": queue} for name, (digest, queue) in tasks.items()]
    digest = mark or str(sorted(tasks.items()))
    return {
        "dag_id": dag_id,
        "hash": digest,
        "tasks": described,
        "file": f"{dag_id}.py",
        "files": [f"{dag_id}.py", *files],
    }


def release(*dags: dict[str, Any], **files: str) -> dict[str, Any]:
    named = {f"{name}.py": digest for name, digest in files.items()}
    return {"validation": {"dags": list(dags)}, "digests": named}


def test_same_release_changes_nothing() -> None:
    same = release(dag("a", {"t": ("1", "io")}), a="x")
    assert changes.between(same, same) == changes.Changes()


def test_dags_come_and_go() -> None:
    old, new = release(dag("gone", {}), gone="x"), release(dag("new", {}), new="x")
    found = changes.between(old, new)
    assert (found.added, found.removed, found.affected) == (("new",), ("gone",), ("new",))
    assert next(found.lines()).startswith("REMOVED gone")


def test_first_release_adds_everything() -> None:
    assert changes.between({}, release(dag("a", {}), a="x")).added == ("a",)


def test_tasks_are_told_apart() -> None:
    old = release(dag("a", {"same": ("1", "io"), "edit": ("1", "io"), "move": ("1", "io"), "drop": ("1", "io")}), a="x")
    new = release(dag("a", {"same": ("1", "io"), "edit": ("2", "io"), "move": ("2", "cpu"), "new": ("1", "io")}), a="y")
    (change,) = changes.between(old, new).changed
    assert change.added_tasks == ("new",)
    assert change.removed_tasks == ("drop",)
    assert change.changed_tasks == ("edit", "move")
    assert change.moved_tasks == ("move io -> cpu",)
    assert list(changes.between(old, new).lines()) == [
        "changed a: REMOVES drop; QUEUE move io -> cpu; adds new; changes edit, move"
    ]


def test_shared_module_changes_the_dags_that_import_it() -> None:
    old = release(dag("a", {}, ("shared.py",)), dag("b", {}), a="x", b="x", shared="1")
    new = release(dag("a", {}, ("shared.py",)), dag("b", {}), a="x", b="x", shared="2")
    found = changes.between(old, new)
    assert [change.dag_id for change in found.changed] == ["a"]
    assert list(found.lines()) == ["changed a: code in shared.py"]


def test_release_without_the_gate_is_compared_by_what_is_served_and_its_files() -> None:
    old = {"validation": None, "files": {"a.py": {"sha256": "x"}, "b.py": {"sha256": "x"}}, "links": {}}
    new = release(dag("a", {"t": ("1", "io")}), dag("b", {}), dag("c", {}), a="x", b="y", c="x")
    served = [{"dag_id": "a", "file": "a.py"}, {"dag_id": "b", "file": "b.py"}, {"dag_id": "d", "file": "d.py"}]
    found = changes.between(old, new, served)
    assert (found.added, found.removed) == (("c",), ("d",))
    assert [(change.dag_id, change.added_tasks, change.files) for change in found.changed] == [("b", (), ("b.py",))]


def test_manifest_of_the_share_is_compared_with_a_packed_tree() -> None:
    old = {"validation": {"dags": []}, "files": {"a.py": {"sha256": "x"}}, "links": {"l.py": "a.py"}}
    assert changes.between(old, {"validation": {"dags": []}, "digests": {"a.py": "x", "l.py": "-> a.py"}}) == (
        changes.Changes()
    )


def test_dag_that_moves_to_another_file_is_called_out() -> None:
    old, new = release(dag("a", {}), a="x"), release(dag("a", {}) | {"file": "b.py", "files": ["b.py"]}, b="x")
    assert list(changes.between(old, new).lines()) == [
        "changed a: MOVES a.py -> b.py, and its unfinished runs cannot follow"
    ]
