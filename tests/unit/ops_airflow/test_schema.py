import re
from typing import Any

import pytest

from ops_airflow import schema

HEADS = {"alembic_version": ["b", "a"], "alembic_version_fab": ["f"]}


class Database:
    """Answers the module's questions from tables in memory."""

    def __init__(self, tables: dict[str, list[str]], pool: tuple[int, str] | None = (32, "")) -> None:
        self.tables = tables
        self.pool = pool
        self.rows: list[tuple[Any, ...]] = []

    def execute(self, statement: str, parameters: tuple[Any, ...] = ()) -> None:
        if "to_regclass" in statement:
            self.rows = [(parameters[0] in self.tables,)]
        elif statement.startswith("UPDATE slot_pool"):
            self.pool = (parameters[0], parameters[1])
        elif "slot_pool" in statement:
            self.rows = [self.pool] if self.pool else []
        elif "ab_user" in statement:
            self.rows = [(parameters[0] in self.tables["ab_user"],)]
        else:
            table = re.findall(r'FROM "(\w+)"', statement)[0]
            self.rows = [(value,) for value in sorted(self.tables[table])]

    def fetchone(self) -> tuple[Any, ...] | None:
        return self.rows[0] if self.rows else None

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.rows


CURRENT = {"alembic_version": ["a", "b"], "alembic_version_fab": ["f"], "ab_user": ["admin"]}


@pytest.mark.parametrize(
    ("tables", "lacks"),
    [
        (CURRENT, set()),
        (CURRENT | {"ab_user": ["somebody"]}, {"create_admin"}),
        (CURRENT | {"alembic_version": ["a"]}, {"migrate", "create_admin", "size_pool"}),
        (CURRENT | {"alembic_version_fab": []}, {"migrate", "create_admin", "size_pool"}),
        ({}, {"migrate", "create_admin", "size_pool"}),
    ],
    ids=["current", "no administrator", "older Airflow", "older FAB", "empty database"],
)
def test_state_says_what_the_database_lacks(tables: dict[str, list[str]], lacks: set[str]) -> None:
    answer = schema.state(Database(tables), HEADS, "admin", 32)
    assert {name for name, missing in answer.items() if missing} == lacks


@pytest.mark.parametrize(
    ("pool", "slots"),
    [
        ((128, "Default pool"), 32),
        ((64, schema.POOL_MARK % 64), 32),
        ((32, schema.POOL_MARK % 32), 32),
        ((50, "Default pool"), 50),
        ((50, schema.POOL_MARK % 64), 50),
    ],
    ids=["stock", "an earlier converge", "this one", "by hand", "by hand since"],
)
def test_default_pool_follows_the_fleet_until_somebody_sets_it(pool: tuple[int, str], slots: int) -> None:
    database = Database(CURRENT, pool)
    wanted = schema.state(database, HEADS, "admin", 32)["size_pool"]
    schema.size_pool(database, 32)
    assert database.pool is not None
    assert (database.pool[0], wanted) == (slots, slots != pool[0])
    assert schema.state(database, HEADS, "admin", 32)["size_pool"] is False


def test_connection_uri_drops_the_driver_and_keeps_the_rest() -> None:
    text = "# managed\nOTHER=1\nAIRFLOW__DATABASE__SQL_ALCHEMY_CONN=postgresql+psycopg2://a:p%2F@h:5432/airflow\n"
    assert schema.connection_uri(text) == "postgresql://a:p%2F@h:5432/airflow"


def test_connection_uri_is_refused_where_there_is_none() -> None:
    with pytest.raises(KeyError):
        schema.connection_uri("OTHER=1\n")
