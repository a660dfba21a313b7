"""What every test may use: the checkout's root."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(autouse=True)
def _umask_stays() -> Iterator[None]:
    """Undo what a verb that was called here, and not in a process of its own, has set for what it writes."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
