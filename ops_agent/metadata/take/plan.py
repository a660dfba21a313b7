"""What one vacuum may take: a request, read against the database's own catalog."""

from __future__ import annotations

import graphlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ops_agent.metadata.shelf.manifest import RUNNING, Manifest, Table
from ops_agent.metadata.take import catalog, graph, policy
from ops_agent.metadata.take.batches import Source
from ops_agent.metadata.take.pace import BatchSizer
from ops_agent.metadata.take.statements import DAGS, LISTS, NEWEST, RUNS, Statements, literals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import psycopg

    from ops_agent.metadata.take.policy import Policy

_DAGS_AT_ONCE = 50
# What it does on two cores of 2024; only to say in advance about how long it will take.
_USUAL_ROWS_PER_S = 60_000


@dataclass(frozen=True)
class Request:
    """What is asked for; `tables` are roots of families, all if empty; `held` runs stay; `who` asks.

    Unless `gentle` it does not pause when others suffer.
    """

    policy: Policy
    who: str
    dag: str = "*"
    tables: tuple[str, ...] = ()
    max_seconds: float | None = None
    held: tuple[int, ...] = ()
    reclaim: bool = False
    gentle: bool = True
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


class Plan:
    """The families of the schema, and of them what the request asks for."""

    def __init__(self, request: Request, connection: psycopg.Connection[Any]) -> None:
        """Read the catalog. Raises ArchiveError for a schema that the committed list does not know."""
        self.request = request
        self.catalog = catalog.read(connection, graph.SCHEMAS)
        self.families = {family.root: Statements(family, self.catalog) for family in graph.check(self.catalog)}
        self.database = _identity(connection)
        self._server_version = str(connection.info.server_version)

    @property
    def chosen(self) -> list[Statements]:
        """The families that are asked for."""
        return [each for each in self.families.values() if self.before(each)[1]]

    def before(self, statements: Statements) -> tuple[datetime | None, bool]:
        """Return the time before which rows may go (runs have one each), and whether the family is asked for."""
        root = statements.family.root
        if self.request.tables and root not in self.request.tables:
            return None, False
        if root == RUNS:
            return None, True
        kept = self.request.policy.table(root)
        if kept is None or (self.request.dag != "*" and not self.request.tables):
            return None, False
        return policy.ago(self.request.now, kept), True

    def fill(self, reader: psycopg.Connection[Any]) -> list[str]:
        """Fill the lists of what may go and what stays; return what fills them in another session."""
        dags = {dag_id: list(tags) for dag_id, tags in reader.execute(DAGS)}
        wanted = policy.wanted(self.request.policy, dags, self.request.dag, self.request.now)
        lists = [
            *LISTS,
            literals(
                "vacuum_wanted", [(each.dag_id, each.state, each.before.isoformat(), each.keep) for each in wanted]
            ),
            "ANALYZE vacuum_wanted",
        ]
        for statement in lists:
            reader.execute(statement)
        names = sorted({each.dag_id for each in wanted})
        kept: dict[int, str] = dict.fromkeys(self.request.held, "")
        for start in range(0, len(names), _DAGS_AT_ONCE):
            kept |= dict(reader.execute(NEWEST, [names[start : start + _DAGS_AT_ONCE]]).fetchall())
        filling = [literals("vacuum_kept", list(kept.items())), "ANALYZE vacuum_kept"]
        for statement in filling:
            reader.execute(statement)
        return [*lists, *filling]

    def count(self, reader: psycopg.Connection[Any], tell: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
        """Count what would go from each table, and estimate bytes and time."""
        rows: dict[str, list[float]] = {}
        for statements in self.chosen:
            source = Source(reader, statements, BatchSizer(size=2000), self.before(statements)[0], wholly=True)
            for roots, _ in source.groups():
                for name in statements.family.members:
                    found = reader.execute(statements.count(name), {"roots": list(roots)}).fetchone() or (0, 0)
                    counted = rows.setdefault(name, [0, 0])
                    counted[0] += int(found[0])
                    counted[1] += int(found[1])
                tell({"event": "count", "rows": int(sum(counted[0] for counted in rows.values()))})
        return [
            {"name": name, "rows": int(count), "bytes": int(size), "seconds": round(count / _USUAL_ROWS_PER_S, 2)}
            for name, (count, size) in rows.items()
        ]

    def head(self, archive_id: str) -> Manifest:
        """Return the manifest that an archive of this plan begins with."""
        kept = self.request.policy.retention
        families = [each.family for each in self.chosen]
        tables = (self.catalog.table(member, family.root) for family in families for member in family.members)
        return Manifest(
            archive_id=archive_id,
            state=RUNNING,
            created_at=self.request.now.isoformat(),
            created_by=self.request.who,
            database=self.database,
            postgres_version=self._server_version,
            airflow_version=graph.AIRFLOW_VERSIONS.get(self.catalog.revision, ""),
            schema_revision=self.catalog.revision,
            cutoff=policy.ago(self.request.now, kept).isoformat() if kept is not None else policy.NEVER,
            policy=_plain(self.request),
            tables=_in_order(tables),
        )


def _in_order(tables: Iterable[Table]) -> tuple[Table, ...]:
    """Put parents before their children; a table of two families is listed with the first."""
    by_name: dict[str, Table] = {}
    for table in tables:
        by_name.setdefault(table.name, table)
    sorter = graphlib.TopologicalSorter(
        {
            name: [reference.parent for reference in table.references if reference.parent in by_name]
            for name, table in by_name.items()
        }
    )
    return tuple(by_name[name] for name in sorter.static_order())


def _identity(connection: psycopg.Connection[Any]) -> str:
    row = connection.execute(
        "SELECT current_database() || '@' || system_identifier FROM pg_control_system()"
    ).fetchone()
    return str(row[0]) if row else ""


def _plain(request: Request) -> Mapping[str, Any]:
    def text(value: Any) -> str:
        return policy.NEVER if value is None else f"{int(value.total_seconds())}s"

    wanted = request.policy
    return {
        "retention": text(wanted.retention),
        "keep_last": wanted.keep_last,
        "dags": [
            {
                "dag": rule.dag,
                "tag": rule.tag,
                "states": list(rule.states),
                "retention": text(rule.retention),
                "keep_last": rule.keep_last,
            }
            for rule in wanted.rules
        ],
        "tables": {name: text(value) for name, value in wanted.tables.items()},
        "only_dag": request.dag,
        "only_tables": list(request.tables),
    }
