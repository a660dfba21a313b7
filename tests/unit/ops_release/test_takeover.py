from typing import Any

from ops_release import ReleaseError, takeover
from ops_release.manifest import File, Manifest


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
    assert takeover.unchanged(old, new) == ["same"]


def test_dag_that_moves_is_changed() -> None:
    old = release(("a", "1", ("a.py",)), a="x")
    new = release(("a", "1", ("a.py",)), a="x")
    assert new.validation
    new.validation["dags"][0]["file"] = "b.py"
    assert takeover.unchanged(old, new) == []


def test_nothing_is_known_of_a_release_without_the_gate() -> None:
    with_gate = release(("a", "1", ("a.py",)), a="x")
    assert takeover.unchanged(with_gate, with_gate) == ["a"]
    assert takeover.unchanged(release(gate=False, a="x"), with_gate) == []
    assert takeover.unchanged(with_gate, release(gate=False, a="x")) == []


def test_files_of_changed_dags_and_of_changed_imports_come_first() -> None:
    old = release(
        ("same", "1", ("same.py",)),
        ("edited", "1", ("edited.py",)),
        ("importing", "1", ("importing.py", "lib.py")),
        same="s",
        edited="1",
        importing="i",
        lib="1",
        emptied="1",
    )
    new = release(
        ("same", "1", ("same.py",)),
        ("edited", "1", ("edited.py",)),
        ("importing", "1", ("importing.py", "lib.py")),
        ("added", "1", ("added.py",)),
        same="s",
        edited="2",
        importing="i",
        lib="2",
        emptied="2",
        added="1",
    )
    assert takeover.unchanged(old, new) == ["same"]
    # "emptied" has lost its last DAG, which only parsing tells.
    assert takeover.urgent(old, new, {"same"}) == {
        "added.py": {"added"},
        "edited.py": {"edited"},
        "emptied.py": frozenset(),
        "importing.py": {"importing"},
        "lib.py": frozenset(),
    }


def test_unchanged_dag_that_could_not_be_taken_over_comes_first_too() -> None:
    one = release(("stale", "1", ("stale.py",)), ("fine", "1", ("fine.py",)), stale="s", fine="f")
    assert takeover.urgent(one, one, {"fine"}) == {"stale.py": {"stale"}}
    assert takeover.urgent(None, one, {"fine", "stale"}) == {}


def test_changed_files_of_a_release_without_the_gate_come_first() -> None:
    old, new = release(gate=False, a="x", b="y"), release(gate=False, a="x", b="z", c="")
    assert takeover.urgent(old, new, {"a"}) == {"b.py": frozenset(), "c.py": frozenset()}
    assert takeover.urgent(None, new, {"a"}).keys() == {"a.py", "b.py", "c.py"}


class Cursor:
    """Answers as a database whose DAGs are served from the releases given by id."""

    def __init__(self, **served: str) -> None:
        self.served = served
        self.answer: list[tuple[Any, ...]] = []

    def execute(self, statement: str, values: Any) -> None:
        if "DISTINCT bundle_version" in statement:
            self.answer = [(one,) for one in {*self.served.values()} - {values[1]}]
        else:
            moved = [dag for dag, one in self.served.items() if one == values["old"] and dag in values["dag_ids"]]
            self.served |= dict.fromkeys(moved, values["new"])
            self.answer = [(len(moved),)]

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.answer

    def fetchone(self) -> tuple[Any, ...]:
        return self.answer[0]


class Copies:
    """A host's copies; it has none of other releases."""

    def __init__(self, **manifests: Manifest) -> None:
        self.manifests = manifests

    def load(self, release_id: str) -> Manifest:
        try:
            return self.manifests[release_id]
        except KeyError:
            raise ReleaseError(f"no {release_id}") from None


def test_dags_are_taken_over_from_every_release_that_this_host_has_a_copy_of() -> None:
    oldest = release(("a", "1", ("a.py",)), ("b", "0", ("b.py",)), a="x", b="0")
    old = release(("a", "1", ("a.py",)), ("b", "1", ("b.py",)), ("c", "1", ("c.py",)), a="x", b="y", c="1")
    new = release(("a", "1", ("a.py",)), ("b", "1", ("b.py",)), ("c", "2", ("c.py",)), a="x", b="y", c="2")
    cursor = Cursor(a="oldest", b="old", c="old", d="cleaned", e="new")
    copies: Any = Copies(oldest=oldest, old=old, new=new)
    assert takeover.adopt(cursor, copies, "new") == 2
    assert cursor.served == {"a": "new", "b": "new", "c": "old", "d": "cleaned", "e": "new"}
    assert takeover.adopt(cursor, copies, "new") == 0
