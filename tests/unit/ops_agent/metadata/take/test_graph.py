from dataclasses import replace

import pytest

from ops_agent.metadata.shelf.manifest import ArchiveError, Column
from ops_agent.metadata.take import graph
from ops_agent.metadata.take.catalog import Catalog, ForeignKey

COLUMN = (Column("id", "integer", nullable=False, encoding="exact"),)
TABLES = {member for family in graph.FAMILIES for member in family.members}
KNOWN = Catalog(
    revision="r1",
    fingerprint="",
    columns=dict.fromkeys(TABLES, COLUMN),
    primary_keys=dict.fromkeys(TABLES, ("id",)),
    foreign_keys=tuple(
        ForeignKey(edge.child, edge.columns, edge.parent, edge.parent_columns)
        for edge in {edge for family in graph.FAMILIES for edge in (*family.edges, *family.barriers) if edge.key}
    ),
    delete_triggers=(),
)


def test_known_schema_is_taken() -> None:
    assert graph.check(KNOWN) == graph.FAMILIES


def test_every_foreign_key_to_a_member_is_known_in_every_family_it_leads_to() -> None:
    for family in graph.FAMILIES:
        listed = {edge for edge in (*family.edges, *family.barriers) if edge.key}
        for other in graph.FAMILIES:
            leading = {edge for edge in (*other.edges, *other.barriers) if edge.key and edge.parent in family.members}
            assert leading <= listed, (family.root, other.root)


def test_parents_come_before_their_children() -> None:
    for family in graph.FAMILIES:
        for edge in family.edges:
            assert family.members.index(edge.parent) < family.members.index(edge.child)


@pytest.mark.parametrize(
    ("key", "named"),
    [
        (ForeignKey("public.task_mood", ("ti_id",), "public.task_instance", ("id",)), "public.task_mood refers to"),
        (ForeignKey("ops.note", ("event",), "public.asset_event", ("id",)), "ops.note refers to"),
        (ForeignKey("public.xcom", ("job",), "public.job", ("id",)), r"public.xcom \(job\)"),
    ],
)
def test_unknown_foreign_key_is_refused_by_name(key: ForeignKey, named: str) -> None:
    with pytest.raises(ArchiveError, match=named):
        graph.check(replace(KNOWN, foreign_keys=(*KNOWN.foreign_keys, key)))


def test_missing_foreign_key_is_refused() -> None:
    left = tuple(key for key in KNOWN.foreign_keys if key.child != "public.xcom")
    with pytest.raises(ArchiveError, match=r"foreign key public\.xcom .* is missing"):
        graph.check(replace(KNOWN, foreign_keys=left))


def test_trigger_that_would_not_run_is_refused() -> None:
    with pytest.raises(ArchiveError, match=r"trigger audit of public\.xcom"):
        graph.check(replace(KNOWN, delete_triggers=(("public.xcom", "audit"),)))


def test_tables_that_an_installation_may_lack_are_left_out() -> None:
    columns = {name: of for name, of in KNOWN.columns.items() if not name.startswith("celery.")}
    roots = {family.root for family in graph.check(replace(KNOWN, columns=columns))}
    assert "public.session" in roots
    assert not any(root.startswith("celery.") for root in roots)
