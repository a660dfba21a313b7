"""Options that commands repeat."""

from enum import StrEnum


class Format(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    JSON = "json"
