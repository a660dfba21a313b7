from dataclasses import replace

from ops_agent.metadata.put_back import live
from ops_agent.metadata.put_back.live import LiveColumn
from tests.unit.ops_agent.metadata.sample import RUNS


def database(**changes: LiveColumn | None) -> dict[str, dict[str, LiveColumn]]:
    """Return the live schema that RUNS was taken from, but for some columns."""
    columns: dict[str, LiveColumn | None] = {
        column.name: LiveColumn(column.type, column.nullable, fills_itself=column.nullable, generated=False)
        for column in RUNS.columns
    }
    return {RUNS.name: {name: column for name, column in (columns | changes).items() if column}}


def test_same_schema_fits() -> None:
    assert live.misfits([RUNS], database()) == []


def test_column_that_is_gone_is_named() -> None:
    assert live.misfits([RUNS], database(conf=None)) == ["public.dag_run.conf is not in the database"]


def test_column_of_another_type_is_named_with_both() -> None:
    changed = LiveColumn("bigint", nullable=False, fills_itself=False, generated=False)
    assert live.misfits([RUNS], database(id=changed)) == ["public.dag_run.id was integer and is bigint"]


def test_column_that_may_not_be_null_any_more_is_named() -> None:
    strict = LiveColumn("jsonb", nullable=False, fills_itself=True, generated=False)
    assert live.misfits([RUNS], database(conf=strict)) == ["public.dag_run.conf could be NULL and cannot any more"]


def test_new_column_fits_only_if_it_fills_itself() -> None:
    new = LiveColumn("integer", nullable=False, fills_itself=True, generated=False)
    assert live.misfits([RUNS], database(new=new)) == []
    needed = live.misfits([RUNS], database(new=replace(new, fills_itself=False)))
    assert needed == ["public.dag_run.new is new and has no default"]
    assert live.misfits([RUNS], database(new=replace(new, fills_itself=False, generated=True))) == []


def test_table_that_is_gone_is_named() -> None:
    assert live.misfits([RUNS], {}) == ["table public.dag_run is not in the database"]
