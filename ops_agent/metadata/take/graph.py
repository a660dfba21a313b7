"""What hangs together: the committed list of families, and the check of it against the database.

The engine deletes with foreign keys switched off, so it must know every one that leads to a row it deletes. A new
Airflow version that adds a table is refused here, by name and before anything is changed, until the list below knows
the table. Columns need no list: they are read from the database.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ops_agent.metadata.shelf.manifest import ArchiveError

if TYPE_CHECKING:
    from ops_agent.metadata.take.catalog import Catalog

FINISHED_RUN = "('success', 'failed')"
# A task that something may still run or wait for. A run that ended in a deadlock has tasks without a state: they are
# over, and so are `removed` ones.
UNFINISHED_TASK = "('scheduled', 'queued', 'running', 'restarting', 'deferred', 'up_for_retry', 'up_for_reschedule')"


@dataclass(frozen=True)
class Edge:
    """`child.columns` = `parent.parent_columns`, and the child's rows go with the parent's.

    Usually a foreign key. With `key=False` none says so: a row that only this parent's row refers to (the callback of a
    deadline), or one that names it without a constraint. Where most parents have no such child, `listed` is the column
    whose values are looked for as one list for all parents that agree in the columns before it: a look into the index
    for each of them would cost more than all deletions do.
    """

    child: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    key: bool = True
    listed: str = ""


@dataclass(frozen=True)
class Family:
    """A root table, what hangs off it, and which of its rows may go once they are old enough.

    `age` is SQL for the time a row of alias `r` is dated by; `condition` what else must hold. `barriers` are foreign
    keys to a member whose rows stay: a root that one of them leads to is not taken. `walk` is the column by whose
    index old rows are found; by default the primary key. `shortcuts` lead to the same rows as an edge, from the root
    and by an index that the edge's columns lack.
    """

    root: str
    age: str
    edges: tuple[Edge, ...] = ()
    barriers: tuple[Edge, ...] = ()
    shortcuts: tuple[Edge, ...] = ()
    condition: str = "true"
    walk: str = ""
    optional: bool = False

    @property
    def members(self) -> tuple[str, ...]:
        """The family's tables, parents before children."""
        return (self.root, *dict.fromkeys(edge.child for edge in self.edges))

    @property
    def plain(self) -> bool:
        """Whether its rows depend on nothing but themselves: one that is as it was exported may still go."""
        return not self.edges and not self.barriers and self.condition == "true"


_TASK = ("dag_id", "task_id", "run_id", "map_index")


def _of_run(child: str, column: str = "dag_run_id") -> Edge:
    return Edge(f"public.{child}", (column,), "public.dag_run", ("id",))


def _of_task(child: str, columns: tuple[str, ...] = _TASK) -> Edge:
    if columns == _TASK:
        return Edge(f"public.{child}", columns, "public.task_instance", _TASK, listed="run_id")
    return Edge(f"public.{child}", columns, "public.task_instance", ("id",))


def _refers(child: str, column: str, parent: str) -> Edge:
    return Edge(f"public.{child}", (column,), f"public.{parent}", ("id",))


_RUN = Family(
    root="public.dag_run",
    # A run that was ended by hand may have no end date; no later than its last change it ended.
    age="coalesce(r.end_date, r.updated_at)",
    edges=(
        Edge("public.task_instance", ("dag_id", "run_id"), "public.dag_run", ("dag_id", "run_id")),
        _of_run("dag_run_note"),
        _of_run("dagrun_asset_event"),
        _of_run("deadline", "dagrun_id"),
        _of_run("task_state_store"),
        _of_run("backfill_dag_run"),
        _of_run("asset_partition_dag_run", "created_dag_run_id"),
        _of_task("task_instance_history"),
        _of_task("rendered_task_instance_fields"),
        _of_task("task_map"),
        _of_task("xcom"),
        _of_task("task_reschedule", ("ti_id",)),
        _of_task("task_instance_note", ("ti_id",)),
        _of_task("hitl_detail", ("ti_id",)),
        Edge(
            "public.hitl_detail_history",
            ("ti_history_id",),
            "public.task_instance_history",
            ("task_instance_id",),
        ),
        Edge("public.callback", ("id",), "public.deadline", ("callback_id",), key=False),
        Edge(
            "public.partitioned_asset_key_log",
            ("asset_partition_dag_run_id",),
            "public.asset_partition_dag_run",
            ("id",),
            key=False,
        ),
    ),
    # Airflow writes both columns from the same run, so these are the rows that the foreign keys to its tasks lead to.
    shortcuts=(
        Edge("public.xcom", ("dag_run_id",), "public.dag_run", ("id",), key=False),
        Edge("public.task_instance_history", ("dag_id", "run_id"), "public.dag_run", ("dag_id", "run_id"), key=False),
    ),
    # By this key the callback's other deadlines would be found: the condition has it.
    barriers=(Edge("public.deadline", ("callback_id",), "public.callback", ("id",)),),
    condition=f"""
  (r.dag_id, r.run_id) NOT IN (SELECT t.dag_id, t.run_id FROM public.task_instance AS t
    WHERE t.state IN {UNFINISHED_TASK})
  AND NOT EXISTS (SELECT FROM public.backfill AS b WHERE b.id = r.backfill_id AND b.completed_at IS NULL)
  AND r.id NOT IN (SELECT x.dag_run_id FROM public.backfill_dag_run AS x
    JOIN public.backfill AS b ON b.id = x.backfill_id WHERE b.completed_at IS NULL AND x.dag_run_id IS NOT NULL)
  AND r.id NOT IN (SELECT x.dagrun_id FROM public.deadline AS x JOIN public.callback AS c ON c.id = x.callback_id
    WHERE x.dagrun_id IS NOT NULL AND (c.state IN ('pending', 'queued', 'running') OR EXISTS (
      SELECT FROM public.deadline AS o WHERE o.callback_id = c.id AND o.id <> x.id)))
  -- The next run by logical date looks back at this one (depends_on_past), so it must be there, and over.
  AND (r.logical_date IS NULL OR (SELECT n.state IN {FINISHED_RUN} FROM public.dag_run AS n
    WHERE n.dag_id = r.dag_id AND n.logical_date > r.logical_date ORDER BY n.logical_date LIMIT 1))
  AND (r.logical_date IS NULL OR r.run_type = 'manual' OR (SELECT n.state IN {FINISHED_RUN} FROM public.dag_run AS n
    WHERE n.dag_id = r.dag_id AND n.logical_date > r.logical_date AND n.run_type <> 'manual'
    ORDER BY n.logical_date LIMIT 1))""",
)

_DAG_VERSION = Family(
    root="public.dag_version",
    age="greatest(r.created_at, r.last_updated)",
    edges=(
        _refers("serialized_dag", "dag_version_id", "dag_version"),
        _refers("dag_code", "dag_version_id", "dag_version"),
        _refers("deadline_alert", "serialized_dag_id", "serialized_dag"),
    ),
    barriers=(
        _refers("task_instance", "dag_version_id", "dag_version"),
        _refers("dag_run", "created_dag_version_id", "dag_version"),
        _refers("deadline", "deadline_alert_id", "deadline_alert"),
    ),
    condition="""
  EXISTS (SELECT FROM public.dag_version AS n WHERE n.dag_id = r.dag_id AND n.version_number > r.version_number)
  AND NOT EXISTS (SELECT FROM public.serialized_dag AS s JOIN public.deadline_alert AS a ON a.serialized_dag_id = s.id
    JOIN public.deadline AS d ON d.deadline_alert_id = a.id WHERE s.dag_version_id = r.id)
  AND r.id NOT IN (SELECT h.dag_version_id FROM public.task_instance_history AS h
    WHERE h.dag_version_id IS NOT NULL)""",
)

_ASSET_EVENT = Family(
    root="public.asset_event",
    age='r."timestamp"',
    edges=(_refers("asset_alias_asset_event", "event_id", "asset_event"),),
    barriers=(_refers("dagrun_asset_event", "event_id", "asset_event"),),
    # A DAG that waits for several assets may yet consume it, however old it is.
    condition="""
  NOT EXISTS (SELECT FROM public.asset_dag_run_queue AS q WHERE q.asset_id = r.asset_id)
  AND NOT EXISTS (SELECT FROM public.partitioned_asset_key_log AS k JOIN public.asset_partition_dag_run AS p
    ON p.id = k.asset_partition_dag_run_id WHERE k.asset_event_id = r.id AND p.created_dag_run_id IS NULL)""",
)

# In the order they are worked on: runs first, for their going is what frees events, callbacks, triggers and versions.
FAMILIES = (
    _RUN,
    Family(root="public.log", age="r.dttm", walk="dttm"),
    _ASSET_EVENT,
    Family(
        root="public.partitioned_asset_key_log",
        age="r.created_at",
        condition="""
  NOT EXISTS (SELECT FROM public.asset_partition_dag_run AS p WHERE p.id = r.asset_partition_dag_run_id)""",
    ),
    Family(
        root="public.callback",
        age="r.created_at",
        barriers=(_refers("deadline", "callback_id", "callback"),),
        condition="(r.state IS NULL OR r.state IN ('success', 'failed', 'scheduled'))",
    ),
    Family(
        root="public.trigger",
        age="r.created_date",
        barriers=(
            _refers("task_instance", "trigger_id", "trigger"),
            _refers("callback", "trigger_id", "trigger"),
            _refers("asset_watcher", "trigger_id", "trigger"),
        ),
    ),
    _DAG_VERSION,
    Family(
        root="public.job",
        age="r.latest_heartbeat",
        condition=f"""
  r.state IS DISTINCT FROM 'running' AND r.id NOT IN (SELECT t.queued_by_job_id FROM public.task_instance AS t
    WHERE t.state IN {UNFINISHED_TASK} AND t.queued_by_job_id IS NOT NULL)""",
    ),
    Family(root="public.import_error", age='r."timestamp"'),
    Family(root="public.revoked_token", age="r.exp"),
    Family(root="public.connection_test_request", age="r.updated_at", condition="r.state IN ('success', 'failed')"),
    # These times are written without a zone, in UTC, which is the session's.
    Family(root="public.session", age="r.expiry", optional=True),
    Family(root="celery.celery_taskmeta", age="r.date_done", walk="date_done", optional=True),
    Family(root="celery.celery_tasksetmeta", age="r.date_done", walk="date_done", optional=True),
)
SCHEMAS = ("public", "celery")
# Heads of Airflow's migrations that the list was read from.
AIRFLOW_VERSIONS = {"d2f4e1b3c5a7": "3.3"}


def check(catalog: Catalog, families: tuple[Family, ...] = FAMILIES) -> tuple[Family, ...]:
    """Return the families that this database has; raise ArchiveError if it has them in another shape than listed."""
    present = tuple(family for family in families if family.root in catalog.columns or not family.optional)
    wrong = [complaint for family in present for complaint in _complaints(catalog, family)]
    members = {member for family in present for member in family.members}
    wrong += [
        f"trigger {name} of {table} would not run, for the engine deletes with triggers off"
        for table, name in catalog.delete_triggers
        if table in members
    ]
    if wrong:
        raise ArchiveError(
            f"schema revision {catalog.revision} is not the one this version knows, nothing was changed: "
            + "; ".join(dict.fromkeys(wrong))
        )
    return present


def _complaints(catalog: Catalog, family: Family) -> list[str]:
    missing = [f"table {member} is missing" for member in family.members if member not in catalog.columns]
    if missing:
        return missing
    found = {Edge(key.child, key.columns, key.parent, key.parent_columns) for key in catalog.foreign_keys}
    listed = {replace(edge, listed="") for edge in (*family.edges, *family.barriers) if edge.key}
    wrong = [f"table {member} has no primary key" for member in family.members if not catalog.primary_keys.get(member)]
    wrong += [f"foreign key {_text(edge)} is missing" for edge in sorted(listed - found, key=_text)]
    wrong += [
        f"table {edge.child} refers to {edge.parent} by a foreign key that is not listed ({_text(edge)})"
        for edge in sorted(found - listed, key=_text)
        if edge.parent in family.members
    ]
    return wrong


def _text(edge: Edge) -> str:
    return f"{edge.child} ({', '.join(edge.columns)}) -> {edge.parent} ({', '.join(edge.parent_columns)})"
