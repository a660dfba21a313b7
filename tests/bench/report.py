"""Prints measured figures as one Markdown table and says whether each reached its target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured value; `limit` is the most it may be, or with `at_least` the least."""

    name: str
    value: float
    unit: str
    limit: float
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the value is on the right side of its limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def report(figures: list[Figure]) -> int:
    """Print the table; return the exit code: 0 when every target was reached, 4 otherwise."""
    print("| figure | measured | target | reached |\n|---|---|---|---|")
    for figure in figures:
        sign = "≥" if figure.at_least else "≤"
        verdict = "yes" if figure.reached else "NO"
        target = f"{sign} {figure.limit:g} {figure.unit}"
        print(f"| {figure.name} | {figure.value:.2f} {figure.unit} | {target} | {verdict} |")
    return 0 if all(figure.reached for figure in figures) else 4
