import pytest

from ops_agent.database import analyze
from ops_release.run import ProbeError


def test_objects_may_span_lines() -> None:
    printed = '{"statements" : [{"a":1}, \n {"a":2}]}\n{"database" : "airflow"}\n'
    assert analyze.read(printed) == {"statements": [{"a": 1}, {"a": 2}], "database": "airflow"}


@pytest.mark.parametrize("printed", ["WARNING: x", '{"a": 1} WARNING', "[1]", '{"a": '])
def test_anything_else_is_an_error_that_quotes_it(printed: str) -> None:
    with pytest.raises(ProbeError, match="psql printed"):
        analyze.read(printed)
