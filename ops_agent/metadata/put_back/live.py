"""What a restore has to know of the database as it is now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ops_agent.metadata.shelf.manifest import Reference
from ops_agent.metadata.take.catalog import FOREIGN_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ops_agent.metadata.shelf.manifest import Table


@dataclass(frozen=True)
class LiveColumn:
    """A column of the database; `fills_itself` if a row may leave it out."""

    type: str
    nullable: bool
    fills_itself: bool
    generated: bool


_COLUMNS = """
SELECT n.nspname || '.' || c.relname, a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
  a.atthasdef OR a.attidentity <> '' OR NOT a.attnotnull, a.attgenerated <> ''
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY (%s) AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
"""
_SEQUENCES = """
SELECT n.nspname || '.' || c.relname, a.attname, pg_sequence_last_value(d.objid)
FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
JOIN pg_class c ON c.oid = d.refobjid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
  AND n.nspname = ANY (%s)
"""


def schema(connection: Any, schemas: Iterable[str]) -> dict[str, dict[str, LiveColumn]]:
    """Read the columns of every table (schema.table)."""
    found: dict[str, dict[str, LiveColumn]] = {}
    for table, name, *rest in connection.execute(_COLUMNS, [list(schemas)]):
        found.setdefault(table, {})[name] = LiveColumn(*rest)
    return found


def sequences(connection: Any, schemas: Iterable[str]) -> dict[str, dict[str, int]]:
    """Read the last number that each column's own sequence gave out; 0 if it gave out none."""
    found: dict[str, dict[str, int]] = {}
    for table, name, last in connection.execute(_SEQUENCES, [list(schemas)]):
        found.setdefault(table, {})[name] = last or 0
    return found


def references(connection: Any) -> dict[str, tuple[Reference, ...]]:
    """Read the foreign keys by table."""
    found: dict[str, tuple[Reference, ...]] = {}
    for child, parent, columns, parent_columns in connection.execute(FOREIGN_KEYS):
        found[child] = (*found.get(child, ()), Reference(tuple(columns), parent, tuple(parent_columns)))
    return found


def misfits(tables: Sequence[Table], live: Mapping[str, Mapping[str, LiveColumn]]) -> list[str]:
    """Return one line for every column that keeps the rows of `tables` from going back as they were."""
    lines = []
    for table in tables:
        now = live.get(table.name)
        if now is None:
            lines.append(f"table {table.name} is not in the database")
            continue
        for column in table.columns:
            if column.name not in now:
                lines.append(f"{table.name}.{column.name} is not in the database")
            elif now[column.name].type != column.type:
                lines.append(f"{table.name}.{column.name} was {column.type} and is {now[column.name].type}")
            elif column.nullable and not now[column.name].nullable:
                lines.append(f"{table.name}.{column.name} could be NULL and cannot any more")
        archived = {column.name for column in table.columns}
        lines += [
            f"{table.name}.{name} is new and has no default"
            for name, column in now.items()
            if name not in archived and not (column.fills_itself or column.generated)
        ]
    return lines
