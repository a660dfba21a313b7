"""What every failure story runs under: a steady load, and a fleet that is whole before and, without a hand, after."""

from collections.abc import Iterator

import pytest

from tests.chaos import machines, proof
from tests.chaos.lab import SCHEDULERS, Database, settled, shell
from tests.chaos.load import Api, Load, harmed, publish, withdraw
from tests.chaos.recovery import hand_over


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "account" in item.path.name)


@pytest.fixture(scope="session")
def database() -> Iterator[Database]:
    database = Database()
    yield database
    database.close()


@pytest.fixture(scope="session")
def api() -> Api:
    return Api()


@pytest.fixture(scope="session")
def load(api: Api, database: Database) -> Iterator[Load]:
    """The load, once for all stories, and a server that logs who writes."""
    settled()
    before = publish(api, database)
    proof.listen(database)
    # Sessions from before say nothing in the log; twice, so that both schedulers have new ones.
    for _ in SCHEDULERS:
        hand_over(database)
    try:
        with Load() as load:
            yield load
    finally:
        proof.deafen(database)
        withdraw(api, database, before)


@pytest.fixture(autouse=True)
def story(load: Load, database: Database) -> Iterator[None]:
    """Before: an active scheduler and a ready standby. After: again, with nothing lost, repeated, or written twice."""
    settled()
    yield
    for host in SCHEDULERS:
        machines.mend(host)
    settled()
    # That nothing is stuck is seen at the end, for all stories at once: test_account.py.
    assert harmed(database, load.began) == []
    found = proof.sessions(load.began, load.shared)
    assert proof.nameless(found) == []
    assert proof.overlaps(found) == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:  # noqa: ARG001
    report = yield
    if report.failed:
        for host in SCHEDULERS:
            try:
                journal = shell(host, "journalctl --no-pager -n 15 -u airflow-scheduler | cut -c1-180")
            except (OSError, AssertionError) as error:
                journal = repr(error)
            report.sections.append((f"airflow-scheduler of {host}", journal))
    return report
