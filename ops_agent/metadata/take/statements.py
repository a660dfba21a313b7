"""The SQL of a family, put together from its edges.

Alias `r` is the root everywhere; in each statement `roots` is a list of primary keys as texts, a parameter or, in COPY,
which takes none, a literal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ops_agent.metadata.shelf import columns

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import datetime

    from ops_agent.metadata.take.catalog import Catalog
    from ops_agent.metadata.take.graph import Edge, Family

RUNS = "public.dag_run"
LISTS = (
    """CREATE TEMPORARY TABLE vacuum_wanted
  (dag_id text, state text, before timestamptz, keep integer, PRIMARY KEY (dag_id, state))""",
    "CREATE TEMPORARY TABLE vacuum_kept (id integer PRIMARY KEY, dag_id text)",
)
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
# One that stays went meanwhile (somebody deleted it), so another run of its DAG is the newest now.
_NONE_KEPT_WENT = """
r.dag_id NOT IN (SELECT k.dag_id FROM vacuum_kept AS k
  WHERE k.dag_id IS NOT NULL AND NOT EXISTS (SELECT FROM public.dag_run AS d WHERE d.id = k.id))
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
        return self._type(self.key)

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
        of_runs = [_NONE_KEPT_WENT] if self.family.root == RUNS else []
        return " AND ".join([self.old, *of_runs, self.family.condition, *barriers])

    @property
    def old(self) -> str:
        """The part of `eligible` that asks for nothing but age, and for runs the policy."""
        if self.family.root == RUNS:
            return (
                "JOIN vacuum_wanted AS w ON w.dag_id = r.dag_id AND w.state = r.state"
                f" WHERE {self.family.age} < w.before"
                " AND NOT EXISTS (SELECT FROM vacuum_kept AS k WHERE k.id = r.id)"
            )
        return f"WHERE {self.family.age} < %(before)s"

    def page(self, *, first: bool, wholly: bool) -> str:
        """Look at the next %(limit)s rows: where they end, and which of them may go, with how many rows hang off each.

        Unless `wholly`, only by what the rows themselves say. Parameters after_0, after_1: where the last page ended,
        unless it is the `first`.
        """
        names = ", ".join(f'p."{column}"' for column in self.order)
        start = self._start(first=first)
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
(SELECT r."{self.key}"::text, {weight}, NULL FROM page AS r {self.eligible if wholly else self.old} ORDER BY {keys})"""

    @property
    def along(self) -> str:
        """Column along which the ranges of a plain family lie; rows that agree in it are in the same one."""
        return self.family.walk or self.key

    def place(self) -> str:
        """Find the end of a range of %(limit)s rows after the place %(after)s (NULL is the beginning), if it has them.

        By the index alone: `along` is all that is asked for.
        """
        column = f'p."{self.along}"'
        age = self.family.age.replace("r.", "p.")
        old = f" AND {age} < %(before)s" if self.family.walk else ""
        return (
            f"SELECT {column}::text FROM {name(self.family.root)} AS p"
            f" WHERE (%(after)s::text IS NULL OR {column} > %(after)s::{self._type(self.along)}){old}"
            f" ORDER BY {column} OFFSET %(limit)s - 1 LIMIT 1"
        )

    def within(self) -> str:
        """Name the rows of a plain family after the place %(after)s up to %(end)s, each a text or NULL."""
        column = f'r."{self.along}"'
        limits = "".join(
            f" AND (%({place})s::text IS NULL OR {column} {operator} %({place})s::{self._type(self.along)})"
            for operator, place in ((">", "after"), ("<=", "end"))
        )
        return f'SELECT r."{self.key}"::text FROM {name(self.family.root)} AS r {self.eligible}{limits}'

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
        """Name the members that others hang off, the root first: what these refer to is looked up once a batch."""
        parents = {self._edge(member).parent for member in self.family.members[1:] if member in filled}
        parents |= {edge.parent for edge in self._member_barriers}
        return [
            self.family.root,
            *(member for member in self.family.members[1:] if member in filled and member in parents),
        ]

    def key_table(self, member: str) -> str:
        """Create the temporary table of a member's keys, which is empty again after each transaction."""
        return (
            f"CREATE TEMPORARY TABLE {self._keys(member)} ON COMMIT DELETE ROWS AS"
            f' SELECT r."{self.key}" AS root, {self._referred(member, "m")}'
            f" FROM {name(self.family.root)} AS r, {name(member)} AS m WITH NO DATA"
        )

    def lock(self, roots: Sequence[str]) -> str:
        """Lock those of the roots that nobody else holds, and return them."""
        return (
            f'SELECT r."{self.key}"::text FROM {name(self.family.root)} AS r'
            f' WHERE r."{self.key}" = ANY({self._list(roots)}) FOR UPDATE SKIP LOCKED'
        )

    def take(self, roots: Sequence[str], before: datetime | None) -> str:
        """Put the keys of those of the locked roots that may go into the root's temporary table."""
        eligible = self.eligible.replace("%(before)s", _moment(before))
        return (
            f'INSERT INTO {self._keys(self.family.root)} SELECT r."{self.key}", {self._referred(self.family.root, "r")}'
            f' FROM {name(self.family.root)} AS r {eligible} AND r."{self.key}" = ANY({self._list(roots)})'
        )

    def keep_keys(self, member: str) -> str:
        """Put the keys of the member's rows into its temporary table; those of its parent are there."""
        return (
            f"INSERT INTO {self._keys(member)} SELECT p.root, {self._referred(member, 'x')}"
            f" FROM {name(member)} AS x JOIN {self._parent(member)}"
        )

    def analyze(self, member: str) -> str:
        """Let the planner know how many keys there are."""
        return f"ANALYZE {self._keys(member)}"

    def delete(self, member: str) -> str:
        """Delete a member's rows and return them: the root's key, then the columns. The keys of its parent are there.

        Parents go before their children: from then on no row can come to refer to them, and the next statement sees
        all that came before.
        """
        table = self.catalog.table(member, self.family.root)
        if member == self.family.root:
            using = f'{self._keys(member)} AS p WHERE x."{self.key}" = p.root'
        elif self._edge(member).listed:
            using = self._by_list(self._edge(member))
        else:
            using = self._parent(member).replace(" ON ", " WHERE ", 1)
        taken = ", ".join(["p.root::text", *columns.expressions(table, "x")])
        return f"DELETE FROM {name(member)} AS x USING {using} RETURNING {taken}"

    def delete_range(self, after: str | None, end: str | None, before: datetime | None) -> str:
        """Delete the old rows of a plain family after one place up to another, and return them as `delete` does."""
        table = self.catalog.table(self.family.root, self.family.root)
        limits = "".join(
            f' AND r."{self.along}" {operator} {_literal(place)}::{self._type(self.along)}'
            for operator, place in ((">", after), ("<=", end))
            if place is not None
        )
        taken = ", ".join([f'r."{self.key}"::text', *columns.expressions(table, "r")])
        eligible = self.eligible.replace("%(before)s", _moment(before))
        return f"DELETE FROM {name(self.family.root)} AS r {eligible}{limits} RETURNING {taken}"

    def still_referred(self, keyed: Collection[str]) -> str:
        """Whether some row refers to a deleted row of a `keyed` member below the root."""
        parts = [
            f"EXISTS (SELECT FROM {name(edge.child)} AS b JOIN {self._keys(edge.parent)} AS p"
            f" ON {_matches('b', edge.columns, 'p', edge.parent_columns)})"
            for edge in self._member_barriers
            if edge.parent in keyed
        ]
        return " OR ".join(parts) or "false"

    def counted(self, statement: str) -> str:
        """Have a deletion count its rows instead of returning them."""
        return f"WITH d AS ({statement}) SELECT count(*) FROM d"

    @property
    def _member_barriers(self) -> list[Edge]:
        return [edge for edge in self.family.barriers if edge.parent in self.family.members[1:]]

    def _by_list(self, edge: Edge) -> str:
        """Find a member's rows by lists of one column's values; OFFSET 0 keeps the planner from taking this apart."""
        pairs = dict(zip(edge.columns, edge.parent_columns, strict=True))
        group = edge.columns[: edge.columns.index(edge.listed)]
        grouped = ", ".join(f'"{pairs[column]}"' for column in group)
        same = _matches("c", group, "g", [pairs[column] for column in group])
        found = ", ".join(f'c."{column}"' for column in edge.columns)
        return f"""(
  SELECT k.root, s.* FROM (
    SELECT {grouped}, array_agg("{pairs[edge.listed]}") AS list FROM {self._keys(edge.parent)} GROUP BY {grouped}
  ) AS g CROSS JOIN LATERAL (
    SELECT {found} FROM {name(edge.child)} AS c WHERE {same} AND c."{edge.listed}" = ANY (g.list) OFFSET 0
  ) AS s JOIN {self._keys(edge.parent)} AS k ON {_matches("s", edge.columns, "k", edge.parent_columns)} OFFSET 0
) AS p WHERE {_matches("x", edge.columns, "p", edge.columns)}"""

    def _parent(self, member: str) -> str:
        """Return the keys by which a member's rows are found, as alias p, and what joins them to alias x."""
        edge = self._edge(member)
        return f"{self._keys(edge.parent)} AS p ON {_matches('x', edge.columns, 'p', edge.parent_columns)}"

    def _start(self, *, first: bool) -> str:
        names = ", ".join(f'p."{column}"' for column in self.order)
        after = ", ".join(f"%(after_{number})s::{self._type(column)}" for number, column in enumerate(self.order))
        start = "" if first else f"WHERE ({names}) > ({after})"
        if self.family.walk:
            start += f" {'AND' if start else 'WHERE'} {self.family.age.replace('r.', 'p.')} < %(before)s"
        return start

    def _list(self, roots: Sequence[str]) -> str:
        texts = ",".join(f'"{_escaped(root)}"' for root in roots)
        return f"{_literal('{' + texts + '}')}::{self.key_type}[]"

    def _type(self, column: str) -> str:
        return next(each.type for each in self.catalog.columns[self.family.root] if each.name == column)

    def _referred(self, member: str, alias: str) -> str:
        """List the columns of a member by which other members' rows are found."""
        edges = (*(self._edge(child) for child in self.family.members[1:]), *self._member_barriers)
        wanted = dict.fromkeys(column for edge in edges if edge.parent == member for column in edge.parent_columns)
        return ", ".join(f'{alias}."{column}"' for column in wanted or [self.catalog.primary_keys[member][0]])

    def count(self, member: str) -> str:
        """Count a member's rows below %(roots)s, and their bytes in memory."""
        chain = self._chain(member)
        alias = "r" if member == self.family.root else f"m{len(chain)}"
        return (
            f"SELECT count(*), coalesce(sum(pg_column_size({alias}.*)), 0) FROM {self._joined(chain)}"
            f' WHERE r."{self.key}" = ANY(%(roots)s::{self.key_type}[])'
        )

    def _keys(self, member: str) -> str:
        """Name the temporary table of a member's keys; one member may be of several families."""
        return f"k_{self.family.root}_{member}".replace(".", "_").replace("public_", "")

    def _edge(self, member: str) -> Edge:
        return next(edge for edge in (*self.family.shortcuts, *self.family.edges) if edge.child == member)

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


def _matches(child: str, columns_: Iterable[str], parent: str, parent_columns: Iterable[str]) -> str:
    pairs = zip(columns_, parent_columns, strict=True)
    return " AND ".join(f'{child}."{one}" = {parent}."{other}"' for one, other in pairs)


def literals(table: str, rows: Sequence[Sequence[object]]) -> str:
    """Return what inserts some rows into a table."""
    if not rows:
        return f"DELETE FROM {table} WHERE false"
    values = ", ".join("(" + ", ".join(_literal(str(value)) for value in row) + ")" for row in rows)
    return f"INSERT INTO {table} VALUES {values}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _moment(moment: datetime | None) -> str:
    return "NULL" if moment is None else f"{_literal(moment.isoformat())}::timestamptz"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
