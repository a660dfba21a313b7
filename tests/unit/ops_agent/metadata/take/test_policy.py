from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ops_agent.metadata.take import policy
from ops_agent.metadata.take.policy import PolicyError, Wanted

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TABLES = ("public.log", "public.job")


def test_first_rule_that_fits_decides() -> None:
    found = policy.parse(
        {
            "retention": "90d",
            "dags": [
                {"dag": "fin_*", "state": "failed", "retention": "2w", "keep_last": 5},
                {"tag": "audit", "retention": "never"},
            ],
        },
        TABLES,
    )
    wanted = policy.wanted(found, {"fin_a": [], "audited": ["audit"], "etl": ["x"]}, "*", NOW)
    assert wanted == [
        Wanted("etl", "success", NOW - timedelta(days=90), 1),
        Wanted("etl", "failed", NOW - timedelta(days=90), 1),
        Wanted("fin_a", "success", NOW - timedelta(days=90), 5),
        Wanted("fin_a", "failed", NOW - timedelta(days=14), 5),
    ]


def test_pattern_limits_the_dags() -> None:
    found = policy.parse({"retention": "1h"}, TABLES)
    assert {each.dag_id for each in policy.wanted(found, {"a1": [], "b1": []}, "a*", NOW)} == {"a1"}


def test_tables_have_their_own_retention() -> None:
    found = policy.parse({"retention": "90d", "tables": {"log": "30d", "job": "never"}}, TABLES)
    assert found.table("public.log") == timedelta(days=30)
    assert found.table("job") is None
    assert found.table("public.trigger") == timedelta(days=90)


def test_retention_beyond_the_calendar_makes_nothing_old() -> None:
    for text in ("999999d", "99999999w", "999999999999999999w"):
        found = policy.parse({"retention": text}, TABLES)
        assert {each.before.year for each in policy.wanted(found, {"a": []}, "*", NOW)} == {1}


def test_duration_may_be_of_many_small_units() -> None:
    assert policy.duration("31536000s", "retention") == timedelta(days=365)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (None, "no mapping"),
        ({}, "says no `retention`"),
        ({"retention": "90"}, "no duration"),
        ({"retention": "-1d"}, "no duration"),
        ({"retention": "90d", "keep": 1}, "has no `keep`"),
        ({"retention": "90d", "keep_last": 0}, "no number of runs"),
        ({"retention": "90d", "keep_last": True}, "no number of runs"),
        ({"retention": "90d", "dags": {"dag": "x"}}, "list of rules"),
        ({"retention": "90d", "dags": [{"retention": "1d"}]}, "fits every run"),
        ({"retention": "90d", "dags": [{"dag": "x", "state": "running"}]}, "not one of success, failed"),
        ({"retention": "90d", "tables": {"task_instance": "1d"}}, "has no `task_instance`"),
    ],
)
def test_policy_that_makes_no_sense_is_refused(document: Any, complaint: str) -> None:
    with pytest.raises(PolicyError, match=complaint):
        policy.parse(document, TABLES)
