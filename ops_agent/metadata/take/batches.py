"""Old rows, found: the slices of work that the engine then moves, each about what one transaction should do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    import psycopg

    from ops_agent.metadata.take.pace import BatchSizer
    from ops_agent.metadata.take.statements import Statements

_PAGE = 1000
_LARGEST_PAGE = 16_000
_LONGEST_READ_SECONDS = 0.1


@dataclass(frozen=True)
class Slice:
    """Some old rows of one family, `weight` roughly, with all that hangs off them.

    Either `roots` names them, or they are the plain family's rows after one place of `Statements.along` up to another;
    None is its beginning or end.
    """

    weight: int
    roots: tuple[str, ...] | None = None
    after: str | None = None
    end: str | None = None

    def halves(self) -> tuple[Slice, ...]:
        """Split a slice of several roots in two; nothing is left of a single root."""
        roots = self.roots or ()
        if len(roots) < 2:  # noqa: PLR2004
            return ()
        middle = len(roots) // 2
        return tuple(
            Slice(max(self.weight * len(part) // len(roots), 1), part) for part in (roots[:middle], roots[middle:])
        )


@dataclass
class Source:
    """Walks through one family and finds what may go; no statement takes long.

    Unless `wholly`, of roots with rows that hang off them only what they say themselves is looked at: whoever takes
    them asks all of it again, with the roots locked.
    """

    connection: psycopg.Connection[Any]
    statements: Statements
    sizer: BatchSizer
    before: datetime | None
    wholly: bool = False
    longest_seconds: float = 0
    _page: int = _PAGE

    def slices(self) -> Iterator[Slice]:
        """Yield what there is to move, in slices of `sizer.size` as it is when each is asked for."""
        if self.statements.family.plain:
            yield from self._ranges()
        else:
            for roots, weight in self.groups():
                yield Slice(weight, roots)

    def named(self, part: Slice) -> Slice:
        """Return a slice of a plain family by its rows' keys."""
        values = {"before": self.before, "after": part.after, "end": part.end}
        found = tuple(key for (key,) in self.connection.execute(self.statements.within(), values))
        return Slice(len(found), found)

    def roots(self) -> Iterator[tuple[str, int]]:
        """Yield the keys of roots that may go, and how many rows hang off each (roughly)."""
        after: list[str] | None = None
        while True:
            values = self._values(after, self._page)
            started = time.monotonic()
            page = self.statements.page(first=after is None, wholly=self.wholly)
            rows = self.connection.execute(page, values).fetchall()
            self._took(time.monotonic() - started)
            ((_, _, end),) = (row for row in rows if row[2] is not None)
            yield from ((key, weight) for key, weight, last in rows if last is None)
            if end[-1] is None:
                return
            after = end

    def groups(self) -> Iterator[tuple[tuple[str, ...], int]]:
        """Group roots into what one transaction should be able to delete."""
        group: list[str] = []
        total = 0
        for root, weight in self.roots():
            if group and total + weight > self.sizer.size:
                yield tuple(group), total
                group, total = [], 0
            group.append(root)
            total += weight
        if group:
            yield tuple(group), total

    def _ranges(self) -> Iterator[Slice]:
        after: str | None = None
        while True:
            limit = self.sizer.size
            started = time.monotonic()
            values = {"before": self.before, "after": after, "limit": limit}
            found = self.connection.execute(self.statements.place(), values).fetchone()
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - started)
            end = found[0] if found else None
            yield Slice(limit, None, after, end)
            if end is None:
                return
            after = end

    def _values(self, after: list[str] | None, limit: int) -> dict[str, Any]:
        values: dict[str, Any] = {"before": self.before, "limit": limit}
        return values | {f"after_{number}": value for number, value in enumerate(after or [])}

    def _took(self, seconds: float) -> None:
        self.longest_seconds = max(self.longest_seconds, seconds)
        if seconds > _LONGEST_READ_SECONDS:
            self._page = max(self._page // 2, 50)
        elif seconds < _LONGEST_READ_SECONDS / 4:
            self._page = min(self._page * 2, _LARGEST_PAGE)
