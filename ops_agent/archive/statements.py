"""The SQL of a family, put together from its edges.

Alias `r` is the root everywhere; in each statement `roots` is a list of primary keys as texts, a parameter or, in COPY,
which takes none, a literal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from psycopg import sql

from ops_agent.archive import columns

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ops_agent.archive.catalog import Catalog
    from ops_agent.archive.graph import Edge, Family

RUNS = "public.dag_run"
# A row version: an update moves a row, a row written anew into its place has another xmin.
_VERSION = "hashtidextended({alias}.ctid, {alias}.xmin::text::bigint)"
LISTS = """
CREATE TEMPORARY TABLE vacuum_wanted
  (dag_id text, state text, before timestamptz, keep integer, PRIMARY KEY (dag_id, state));
CREATE TEMPORARY TABLE vacuum_kept (id integer PRIMARY KEY, dag_id text)
"""
DAGS = """
SELECT d.dag_id, coalesce((SELECT array_agg(t.name) FROM public.dag_tag AS t WHERE t.dag_id = d.dag_id), '{}')
FROM (
  WITH RECURSIVE each AS (
    (SELECT dag_id FROM public.dag_run ORDER BY dag_id LIMIT 1)
    UNION ALL
    SELECT (SELECT n.dag_id FROM public.dag_run AS n WHERE n.dag_id > each.dag_id ORDER BY n.dag_id LIMIT 1)
    FROM each WHERE each.dag_id IS NOT NULL
  )
  SELECT dag_id FROM each WHERE dag_id IS NOT NULL
) AS d
"""
# The newest runs, and the one that scheduling goes on from where it counts by partitions. By logical date the family's
# own condition keeps it.
NEWEST = """
SELECT id, dag_id FROM (
  SELECT d.id, d.dag_id, greatest(w.keep, coalesce(m.max_consecutive_failed_dag_runs, 0)) AS keep,
    row_number() OVER (PARTITION BY d.dag_id ORDER BY d.run_after DESC, d.id DESC) AS by_age,
    row_number() OVER (PARTITION BY d.dag_id
      ORDER BY d.partition_key IS NULL OR d.run_type NOT IN ('scheduled', 'backfill'),
      d.partition_date DESC NULLS LAST, d.run_after DESC, d.id DESC) AS by_partition
  FROM public.dag_run AS d JOIN (SELECT DISTINCT dag_id, keep FROM vacuum_wanted) AS w ON w.dag_id = d.dag_id
  LEFT JOIN public.dag AS m ON m.dag_id = d.dag_id
  WHERE d.dag_id = ANY(%s)
) AS q WHERE by_age <= keep OR by_partition = 1
"""
# One that stays went meanwhile (somebody deleted it), so another run is the newest now.
KEPT_GONE = """
SELECT count(*) FROM vacuum_kept AS k WHERE NOT EXISTS (SELECT FROM public.dag_run AS d WHERE d.id = k.id)
  AND k.dag_id IN (SELECT d.dag_id FROM public.dag_run AS d WHERE d.id = ANY(%s::integer[]))
"""


@dataclass(frozen=True)
class Statements:
    """What the engine asks about one family."""

    family: Family
    catalog: Catalog

    @property
    def key(self) -> str:
        """The root's primary key; raises ValueError if it is no single column."""
        (name,) = self.catalog.primary_keys[self.family.root]
        return name

    @cached_property
    def key_type(self) -> str:
        """Its type."""
        return next(column.type for column in self.catalog.columns[self.family.root] if column.name == self.key)

    @property
    def order(self) -> tuple[str, ...]:
        """Columns by which old rows are walked through."""
        return (self.family.walk, self.key) if self.family.walk else (self.key,)

    @cached_property
    def eligible(self) -> str:
        """WHERE clause, and for runs a join before it: which rows of alias r may go. Takes `before` unless for runs."""
        barriers = [
            f"NOT EXISTS (SELECT FROM {name(edge.child)} AS b"
            f" WHERE {_matches('b', edge.columns, 'r', edge.parent_columns)})"
            for edge in self.family.barriers
            if edge.parent == self.family.root
        ]
        conditions = " AND ".join([self.family.condition, *barriers])
        if self.family.root == RUNS:
            return (
                "JOIN vacuum_wanted AS w ON w.dag_id = r.dag_id AND w.state = r.state"
                f" WHERE {self.family.age} < w.before"
                f" AND NOT EXISTS (SELECT FROM vacuum_kept AS k WHERE k.id = r.id) AND {conditions}"
            )
        return f"WHERE {self.family.age} < %(before)s AND {conditions}"

    def page(self, *, first: bool) -> str:
        """Look at the next %(limit)s rows: where they end, and which of them may go, with how many rows hang off each.

        Parameters after_0, after_1: where the last page ended, unless it is the `first`.
        """
        names = ", ".join(f'p."{column}"' for column in self.order)
        types = {column.name: column.type for column in self.catalog.columns[self.family.root]}
        after = ", ".join(f"%(after_{number})s::{types[column]}" for number, column in enumerate(self.order))
        start = "" if first else f"WHERE ({names}) > ({after})"
        if self.family.walk:
            start += f" {'AND' if start else 'WHERE'} {self.family.age.replace('r.', 'p.')} < %(before)s"
        weight = "1"
        if self.family.root == RUNS:
            weight += (
                " + (SELECT count(*) FROM public.task_instance AS t WHERE t.dag_id = r.dag_id AND t.run_id = r.run_id)"
            )
        last = ", ".join(f'(array_agg(r."{column}"::text ORDER BY n DESC))[1]' for column in self.order)
        keys = ", ".join(f'r."{column}"' for column in self.order)
        return f"""
WITH page AS MATERIALIZED (
  SELECT p.*, row_number() OVER (ORDER BY {names}) AS n FROM {name(self.family.root)} AS p {start}
  ORDER BY {names} LIMIT %(limit)s
)
SELECT NULL, NULL, (SELECT ARRAY[{last}] FROM page AS r)
UNION ALL
(SELECT r."{self.key}"::text, {weight}, NULL FROM page AS r {self.eligible} ORDER BY {keys})"""

    def still(self) -> str:
        """Count which of %(roots)s may still go."""
        return (
            f"SELECT count(*) FROM {name(self.family.root)} AS r {self.eligible}"
            f' AND r."{self.key}" = ANY(%(roots)s::{self.key_type}[])'
        )

    def existing(self) -> str:
        """Which of %(roots)s are there."""
        return (
            f'SELECT r."{self.key}"::text FROM {name(self.family.root)} AS r'
            f' WHERE r."{self.key}" = ANY(%(roots)s::{self.key_type}[])'
        )

    def filled(self, members: Iterable[str]) -> str:
        """Name the members that hold any row; not to be asked often of one that holds many dead ones."""
        return "SELECT " + ", ".join(
            f"CASE WHEN EXISTS (SELECT FROM {name(member)}) THEN '{member}' END" for member in members
        )

    def keyed(self, filled: Collection[str]) -> list[str]:
        """Name the members below the root that others hang off: what these refer to is looked up once a read."""
        parents = {
            self._edge(member).parent
            for member in self.family.members
            if member in filled and member != self.family.root
        }
        return [member for member in self.family.members if member in parents - {self.family.root}]

    def key_table(self, member: str) -> str:
        """Create the temporary table of a member's keys, which is empty again after each transaction."""
        return (
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {_alias(member)} ON COMMIT DELETE ROWS AS"
            f' SELECT r."{self.key}" AS root, {self._referred(member, "m")}'
            f" FROM {name(self.family.root)} AS r, {name(member)} AS m WITH NO DATA"
        )

    def keep_keys(self, member: str, keyed: Collection[str]) -> str:
        """Put the keys of the member's rows below %(roots)s into its temporary table."""
        tables, root, alias = self._source(member, keyed)
        return (
            f"INSERT INTO {_alias(member)} SELECT {root}, {self._referred(member, alias)} FROM {tables}"
            f" WHERE {root} = ANY(%(roots)s::{self.key_type}[])"
        )

    def export(self, member: str, roots: Sequence[str], keyed: Collection[str] = ()) -> sql.Composed:
        """Copy the rows of a member out: version, the root's key, then the columns."""
        table = self.catalog.table(member, self.family.root)
        tables, root, alias = self._source(member, keyed)
        taken = ", ".join([_VERSION.format(alias=alias), f"{root}::text", *columns.expressions(table, alias)])
        return sql.SQL("COPY (SELECT {taken} FROM {tables} WHERE {key} = ANY({roots})) TO STDOUT (FORMAT csv)").format(
            taken=sql.SQL(taken),
            tables=sql.SQL(tables),
            key=sql.SQL(root),
            roots=sql.Literal("{" + ",".join(f'"{_escaped(root)}"' for root in roots) + "}")
            + sql.SQL(f"::{self.key_type}[]"),
        )

    def _source(self, member: str, keyed: Collection[str]) -> tuple[str, str, str]:
        """Return what to read a member from, the root's key in it, and the member's alias."""
        if member != self.family.root and (edge := self._edge(member)).parent in keyed:
            matches = _matches("m", edge.columns, "k", edge.parent_columns)
            return f"{_alias(edge.parent)} AS k JOIN {name(member)} AS m ON {matches}", "k.root", "m"
        chain = self._chain(member)
        return self._joined(chain), f'r."{self.key}"', f"m{len(chain)}" if chain else "r"

    def _referred(self, member: str, alias: str) -> str:
        """List the columns of a member that its children refer to."""
        wanted = dict.fromkeys(
            column for edge in self.family.edges if edge.parent == member for column in edge.parent_columns
        )
        return ", ".join(f'{alias}."{column}"' for column in wanted or [self.catalog.primary_keys[member][0]])

    def count(self, member: str) -> str:
        """Count a member's rows below %(roots)s, and their bytes in memory."""
        chain = self._chain(member)
        alias = "r" if member == self.family.root else f"m{len(chain)}"
        return (
            f"SELECT count(*), coalesce(sum(pg_column_size({alias}.*)), 0) FROM {self._joined(chain)}"
            f' WHERE r."{self.key}" = ANY(%(roots)s::{self.key_type}[])'
        )

    def locks(self) -> list[str]:
        """Lock every row of %(roots)s that a new row could refer to, parents first."""
        found = []
        for member in self.family.parents():
            chain = self._chain(member)
            alias = "r" if member == self.family.root else f"m{len(chain)}"
            found.append(
                f"SELECT count(*) FROM (SELECT FROM {self._joined(chain)}"
                f' WHERE r."{self.key}" = ANY(%(roots)s::{self.key_type}[]) FOR UPDATE OF {alias}) AS q'
            )
        return found

    def delete(self, filled: Iterable[str]) -> str:
        """Delete %(roots)s with all that hangs off them; for each member: its name, rows, sum of the versions.

        Members that are not `filled` hold no row at all. One statement has one snapshot, so every part sees the rows
        that the others delete, and children go as well.
        """
        members = [member for member in self.family.members if member in set(filled)]
        wanted = {edge.parent for member in members for edge in self._chain(member)}
        keys = [self._keys(member) for member in self.family.members if member in wanted]
        deletions, sums = [], []
        for number, member in enumerate(reversed(members)):
            deletions.append(f"d{number} AS (DELETE FROM {name(member)} AS x {self._using(member)})")
            sums.append(f"SELECT '{member}', count(*), coalesce(sum(v), 0) FROM d{number}")
        return f"WITH {', '.join([*keys, *deletions])} {' UNION ALL '.join(sums)}"

    def _using(self, member: str) -> str:
        returned = f"RETURNING {_VERSION.format(alias='x')} AS v"
        if member == self.family.root:
            return f'WHERE x."{self.key}" = ANY(%(roots)s::{self.key_type}[]) {returned}'
        edge = self._edge(member)
        return (
            f"USING {_alias(edge.parent)} AS p WHERE {_matches('x', edge.columns, 'p', edge.parent_columns)} {returned}"
        )

    def _keys(self, member: str) -> str:
        """Collect what the member's children refer to."""
        taken = self._referred(member, "x")
        if member == self.family.root:
            source = f'{name(member)} AS x WHERE x."{self.key}" = ANY(%(roots)s::{self.key_type}[])'
        else:
            edge = self._edge(member)
            source = (
                f"{name(member)} AS x JOIN {_alias(edge.parent)} AS p"
                f" ON {_matches('x', edge.columns, 'p', edge.parent_columns)}"
            )
        return f"{_alias(member)} AS MATERIALIZED (SELECT {taken} FROM {source})"

    def _edge(self, member: str) -> Edge:
        return next(edge for edge in self.family.edges if edge.child == member)

    def _chain(self, member: str) -> list[Edge]:
        """Edges from the root to a member."""
        chain: list[Edge] = []
        while member != self.family.root:
            edge = self._edge(member)
            chain.insert(0, edge)
            member = edge.parent
        return chain

    def _joined(self, chain: Iterable[Edge]) -> str:
        tables, parent = [f"{name(self.family.root)} AS r"], "r"
        for number, edge in enumerate(chain, 1):
            alias = f"m{number}"
            tables.append(
                f"JOIN {name(edge.child)} AS {alias} ON {_matches(alias, edge.columns, parent, edge.parent_columns)}"
            )
            parent = alias
        return " ".join(tables)


def name(table: str) -> str:
    """Quote schema.table."""
    return ".".join(f'"{part}"' for part in table.split(".", 1))


def _alias(table: str) -> str:
    return "k_" + table.replace(".", "_")


def _matches(child: str, columns_: Iterable[str], parent: str, parent_columns: Iterable[str]) -> str:
    pairs = zip(columns_, parent_columns, strict=True)
    return " AND ".join(f'{child}."{one}" = {parent}."{other}"' for one, other in pairs)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
