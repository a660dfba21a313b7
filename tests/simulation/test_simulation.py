"""A few hundred schedules at every run of the unit tests; `make test-simulation` runs 100,000."""

import pytest

from tests.simulation.mutations import MUTATIONS
from tests.simulation.run import caught, failures


def test_protocol_breaks_no_property_whatever_fails() -> None:
    assert failures(range(600)) == []


def test_schedule_of_one_seed_is_always_the_same() -> None:
    assert caught("fence() ends no sessions") == caught("fence() ends no sessions")


@pytest.mark.parametrize("rule", MUTATIONS)
def test_protocol_without_a_rule_is_caught(rule: str) -> None:
    assert caught(rule)
