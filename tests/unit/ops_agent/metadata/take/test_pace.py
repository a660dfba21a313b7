import pytest

from ops_agent.metadata.take.pace import BatchSizer


def test_sizer_finds_what_fits_into_its_target() -> None:
    sizer = BatchSizer(target=0.1, size=500)
    for _ in range(30):
        sizer.took(sizer.size, sizer.size * 0.0001)
    assert sizer.size == pytest.approx(1000, rel=0.01)


def test_sizer_shrinks_at_once() -> None:
    sizer = BatchSizer(target=0.1, size=10_000)
    sizer.took(10_000, 1.0)
    assert sizer.size == 1000


def test_sizer_is_not_shrunk_by_what_fewer_rows_would_not_shorten() -> None:
    sizer = BatchSizer(target=0.1, size=1000, smallest=50)
    for _ in range(30):
        sizer.took(sizer.size, 0.5 + sizer.size * 0.0001, fixed=0.5)
    assert sizer.size == pytest.approx(500, rel=0.01)


def test_sizer_learns_nothing_from_a_remainder() -> None:
    sizer = BatchSizer(target=0.1, size=1000)
    sizer.took(10, 0.00001)
    assert sizer.size == 1000


def test_sizer_stays_within_its_bounds() -> None:
    sizer = BatchSizer(target=0.1, size=100, smallest=50, largest=120)
    sizer.took(100, 60)
    assert sizer.size == 50
    for _ in range(20):
        sizer.took(sizer.size, 0.0001)
    assert sizer.size == 120
