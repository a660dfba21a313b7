import pytest

from ops_agent.metadata.take.pace import Length


def test_length_finds_what_fits_into_its_target() -> None:
    length = Length(target=0.1, size=500)
    for _ in range(30):
        length.took(length.size, length.size * 0.0001)
    assert length.size == pytest.approx(1000, rel=0.01)


def test_length_shrinks_at_once() -> None:
    length = Length(target=0.1, size=10_000)
    length.took(10_000, 1.0)
    assert length.size == 1000


def test_length_is_not_shrunk_by_what_fewer_rows_would_not_shorten() -> None:
    length = Length(target=0.1, size=1000, smallest=50)
    for _ in range(30):
        length.took(length.size, 0.5 + length.size * 0.0001, fixed=0.5)
    assert length.size == pytest.approx(500, rel=0.01)


def test_length_learns_nothing_from_a_remainder() -> None:
    length = Length(target=0.1, size=1000)
    length.took(10, 0.00001)
    assert length.size == 1000


def test_length_stays_within_its_bounds() -> None:
    length = Length(target=0.1, size=100, smallest=50, largest=120)
    length.took(100, 60)
    assert length.size == 50
    for _ in range(20):
        length.took(length.size, 0.0001)
    assert length.size == 120
