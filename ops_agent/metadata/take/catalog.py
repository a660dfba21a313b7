"""Tables, columns and foreign keys as the database has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ops_agent.metadata.shelf import columns
from ops_agent.metadata.shelf.manifest import ArchiveError, Column, Reference, Table

if TYPE_CHECKING:
    import psycopg

_COLUMNS = """
SELECT n.nspname || '.' || c.relname, a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
  a.attgenerated <> ''
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.oid, a.attnum
"""
_KEYS = """
SELECT n.nspname || '.' || c.relname, array_agg(a.attname ORDER BY k.position)
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, position)
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.attnum
WHERE i.indisprimary AND n.nspname = ANY(%s)
GROUP BY 1
"""
FOREIGN_KEYS = """
SELECT cn.nspname || '.' || c.relname, pn.nspname || '.' || p.relname,
  (SELECT array_agg(a.attname ORDER BY k.position) FROM unnest(f.conkey) WITH ORDINALITY AS k (attnum, position)
   JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.attnum),
  (SELECT array_agg(a.attname ORDER BY k.position) FROM unnest(f.confkey) WITH ORDINALITY AS k (attnum, position)
   JOIN pg_attribute AS a ON a.attrelid = f.confrelid AND a.attnum = k.attnum)
FROM pg_constraint AS f
JOIN pg_class AS c ON c.oid = f.conrelid JOIN pg_namespace AS cn ON cn.oid = c.relnamespace
JOIN pg_class AS p ON p.oid = f.confrelid JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
WHERE f.contype = 'f' AND f.conparentid = 0
ORDER BY f.oid
"""
_TRIGGERS = """
SELECT n.nspname || '.' || c.relname, t.tgname
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND (t.tgtype & 8) > 0
ORDER BY 1, 2
"""
# Any change of what the engine relies on changes it; asked again in every transaction that deletes.
FINGERPRINT = """
SELECT md5(concat((SELECT string_agg(version_num, ',' ORDER BY version_num) FROM public.alembic_version), ';',
  (SELECT string_agg(oid::text, ',' ORDER BY oid) FROM pg_constraint WHERE contype = 'f'), ';',
  (SELECT string_agg(oid::text, ',' ORDER BY oid) FROM pg_trigger WHERE NOT tgisinternal)))
"""


@dataclass(frozen=True)
class ForeignKey:
    """One foreign key; names are schema.table."""

    child: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


@dataclass(frozen=True)
class Catalog:
    """What the database has in the schemas that were asked for; foreign keys of all schemas."""

    revision: str
    fingerprint: str
    columns: dict[str, tuple[Column, ...]]
    primary_keys: dict[str, tuple[str, ...]]
    foreign_keys: tuple[ForeignKey, ...]
    delete_triggers: tuple[tuple[str, str], ...]

    def table(self, name: str, family: str) -> Table:
        """Return the table as a manifest describes it."""
        references = (
            Reference(key.columns, key.parent, key.parent_columns) for key in self.foreign_keys if key.child == name
        )
        return Table(name, family, self.primary_keys.get(name, ()), self.columns[name], tuple(references))


def read(connection: psycopg.Connection[Any], schemas: tuple[str, ...]) -> Catalog:
    """Read the catalog; raise ArchiveError if this is no Airflow database."""
    wanted = list(schemas)
    found = connection.execute("SELECT to_regclass('public.alembic_version') IS NOT NULL").fetchone()
    if not found or not found[0]:
        raise ArchiveError(f"database {connection.info.dbname} is none of Airflow's: it has no table alembic_version")
    revision = connection.execute("SELECT string_agg(version_num, ',') FROM public.alembic_version").fetchone()
    fingerprint = connection.execute(FINGERPRINT).fetchone()
    tables: dict[str, list[Column]] = {}
    for table, name, kind, nullable, generated in connection.execute(_COLUMNS, [wanted]):
        tables.setdefault(table, []).append(Column(name, kind, nullable, columns.encoding(kind), generated))
    return Catalog(
        revision=revision[0] if revision and revision[0] else "",
        fingerprint=fingerprint[0] if fingerprint else "",
        columns={name: tuple(of_table) for name, of_table in tables.items()},
        primary_keys={table: tuple(names) for table, names in connection.execute(_KEYS, [wanted])},
        foreign_keys=tuple(
            ForeignKey(child, tuple(names), parent, tuple(parent_names))
            for child, parent, names, parent_names in connection.execute(FOREIGN_KEYS)
        ),
        delete_triggers=tuple((table, name) for table, name in connection.execute(_TRIGGERS)),
    )
