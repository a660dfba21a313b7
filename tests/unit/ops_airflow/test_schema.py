import re
from typing import Any

import pytest

from ops_airflow import schema

HEADS = {"alembic_version": ["b", "a"], "alembic_version_fab": ["f"]}


class Database:
    """Answers the module's three questions from tables in memory."""

    def __init__(self, tables: dict[str, list[str]]) -> None:
        self.tables = tables
        self.rows: list[tuple[Any, ...]] = []

    def execute(self, statement: str, parameters: tuple[str, ...] = ()) -> None:
        if "to_regclass" in statement:
            self.rows = [(parameters[0] in self.tables,)]
        elif "ab_user" in statement:
            self.rows = [(parameters[0] in self.tables["ab_user"],)]
        else:
            table = re.findall(r'FROM "(\w+)"', statement)[0]
            self.rows = [(value,) for value in sorted(self.tables[table])]

    def fetchone(self) -> tuple[Any, ...]:
        return self.rows[0]

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.rows


CURRENT = {"alembic_version": ["a", "b"], "alembic_version_fab": ["f"], "ab_user": ["admin"]}


@pytest.mark.parametrize(
    ("tables", "lacks"),
    [
        (CURRENT, set()),
        (CURRENT | {"ab_user": ["somebody"]}, {"create_admin"}),
        (CURRENT | {"alembic_version": ["a"]}, {"migrate", "create_admin"}),
        (CURRENT | {"alembic_version_fab": []}, {"migrate", "create_admin"}),
        ({}, {"migrate", "create_admin"}),
    ],
    ids=["current", "no administrator", "older Airflow", "older FAB", "empty database"],
)
def test_state_says_what_the_database_lacks(tables: dict[str, list[str]], lacks: set[str]) -> None:
    answer = schema.state(Database(tables), HEADS, "admin")
    assert {name for name, missing in answer.items() if missing} == lacks


def test_connection_uri_drops_the_driver_and_keeps_the_rest() -> None:
    text = "# managed\nOTHER=1\nAIRFLOW__DATABASE__SQL_ALCHEMY_CONN=postgresql+psycopg2://a:p%2F@h:5432/airflow\n"
    assert schema.connection_uri(text) == "postgresql://a:p%2F@h:5432/airflow"


def test_connection_uri_is_refused_where_there_is_none() -> None:
    with pytest.raises(KeyError):
        schema.connection_uri("OTHER=1\n")
