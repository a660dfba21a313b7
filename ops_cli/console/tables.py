"""Answers on standard output: a console that fits them, and figures in words."""

from datetime import datetime

from rich.console import Console

# A pipe has no width; the 80 columns rich assumes would fold every line of a table.
_WIDTH_WITHOUT_TERMINAL = 160


def console(*, stderr: bool = False) -> Console:
    """Return standard output or error, wide enough where there is no terminal to fit.

    What is printed there comes from elsewhere: brackets and colons in it are text, never markup.
    """
    out = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        out.width = _WIDTH_WITHOUT_TERMINAL
    return out


def duration(seconds: float) -> str:
    """Return a time span in its largest fitting unit: 40 s, 12 min, 5 h, 3 days."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def ago(moment: str, now: datetime) -> str:
    """Return how long before `now` a time in ISO 8601 was, as a time span."""
    return duration(max(0.0, (now - datetime.fromisoformat(moment)).total_seconds()))


def size(count: float) -> str:
    """Return bytes in decimal units, as disks are sold: 950 B, 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:  # noqa: PLR2004
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
