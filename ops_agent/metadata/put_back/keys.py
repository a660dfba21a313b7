"""Foreign keys of archived rows, looked for in the database and in other archives by the batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ops_agent.metadata.shelf import copy_text
from ops_agent.metadata.shelf.manifest import ROOT_COLUMN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ops_agent.metadata.shelf.manifest import Table


@dataclass(frozen=True)
class Keys:
    """Distinct values of a foreign key; `rows` is a pyarrow.Table of texts, its columns named as the parent's."""

    child: Table
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    rows: Any

    def __bool__(self) -> bool:
        return bool(self.rows.num_rows)

    def __str__(self) -> str:
        row = self.rows.slice(0, 1).to_pylist()[0]
        named = ", ".join(f"{name} = {value}" for name, value in row.items())
        return f"{self.child.name} ({', '.join(self.columns)}) refers to {self.parent} with {named}"

    def missing(self, connection: Any, *, lock: bool = False) -> Keys:
        """Return the keys that the database does not have; `lock` keeps those that it has until the commit."""
        import pyarrow as pa  # noqa: PLC0415 - hosts without an archive engine have none

        clause, values = join(self.child, self.columns, self.rows, self.parent, self.parent_columns)
        query = f"SELECT k.n {clause} FOR KEY SHARE OF p" if lock else f"SELECT k.n {clause}"
        found = {number - 1 for (number,) in connection.execute(query, values)}
        left = [number for number in range(self.rows.num_rows) if number not in found]
        return dataclasses.replace(self, rows=self.rows.take(pa.array(left, pa.int64())))

    def among(self, parents: Any, table: Table) -> tuple[set[str], Keys]:
        """Return the roots of those archived parents that have one of the keys, and the keys that none has."""
        import pyarrow as pa  # noqa: PLC0415

        names = list(self.parent_columns)
        texts = [_texts(parents, table, name) for name in names]
        named = pa.table([parents.column(ROOT_COLUMN), *texts], names=[ROOT_COLUMN, *names])
        found = named.join(self.rows, names, join_type="left semi")
        left = self.rows.join(named.select(names), names, join_type="left anti")
        return set(found.column(ROOT_COLUMN).to_pylist()), dataclasses.replace(self, rows=left)


def outside(tables: Sequence[Table], rows: dict[str, Any]) -> Iterator[Keys]:
    """Give the foreign keys of the rows that none of the rows answers."""
    by_name = {table.name: table for table in tables}
    for table in tables:
        archived = {column.name for column in table.columns}
        for reference in table.references:
            # A column that came later is filled with its default, and a default refers to nothing.
            if not archived.issuperset(reference.columns):
                continue
            keys = _distinct(rows[table.name], table, reference.columns, reference.parent_columns)
            if parent := by_name.get(reference.parent):
                here = _distinct(rows[parent.name], parent, reference.parent_columns, reference.parent_columns)
                keys = keys.join(here, list(reference.parent_columns), join_type="left anti")
            if keys.num_rows:
                yield Keys(table, reference.columns, reference.parent, reference.parent_columns, keys)


def join(
    table: Table, columns: Sequence[str], rows: Any, parent: str = "", parent_columns: Sequence[str] = ()
) -> tuple[str, list[Any]]:
    """Return the FROM clause that finds `rows` in the database as p, numbered from 1 as k.n, and its values.

    The values are those of `columns` of `table`; where they are a foreign key, `rows` has them by the parent's names.
    """
    types = {column.name: column.type for column in table.columns}
    names = parent_columns or columns
    values = [(rows.column(name) if parent else _texts(rows, table, name)).to_pylist() for name in names]
    lists = ", ".join(["%s::text[]"] * len(names))
    aliases = ", ".join(f"c{number}" for number in range(len(names)))
    matches = " AND ".join(
        f"p.{quoted(name)} = k.c{number}::{types[column]}"
        for number, (name, column) in enumerate(zip(names, columns, strict=True))
    )
    return (
        f"FROM unnest({lists}) WITH ORDINALITY AS k({aliases}, n) JOIN {target(parent or table.name)} p ON {matches}",
        values,
    )


def target(table: str) -> str:
    """Return schema.table, quoted."""
    return ".".join(quoted(part) for part in table.split(".", 1))


def quoted(name: str) -> str:
    """Return a name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def _distinct(rows: Any, table: Table, columns: Sequence[str], names: Sequence[str]) -> Any:
    """Return the distinct values of some columns as texts, under other names; a key with a NULL refers to nothing."""
    import pyarrow as pa  # noqa: PLC0415

    texts = [_texts(rows, table, column) for column in columns]
    return pa.table(texts, names=list(names)).drop_null().group_by(list(names)).aggregate([])


def _texts(rows: Any, table: Table, name: str) -> Any:
    column = next(column for column in table.columns if column.name == name)
    return copy_text.texts(rows.column(name), column)
