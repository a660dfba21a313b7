"""Options that commands repeat, and what those given before the command say to all of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_Function = TypeVar("_Function", bound="Callable[..., Any]")


class Format(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    JSON = "json"


@dataclass
class Shared:
    """What every command is told: the environment, and how much to say of errors."""

    env: str = "lab"
    verbose: int = 0


def env(function: _Function) -> _Function:
    """Take `--env` after the command too; it counts more than the one before."""
    option = click.option(
        "--env", expose_value=False, callback=_choose, help="The environment, if not given before the command."
    )
    return option(function)


def output(text: str, kinds: type[StrEnum] = Format) -> Callable[[_Function], _Function]:
    """Take `--format` and pass it as `output`; the first of `kinds` is the default."""
    kind, first = click.Choice(kinds, case_sensitive=False), next(iter(kinds))
    return click.option("--format", "output", type=kind, default=first, show_default=first.value, help=text)


def flag(name: str, text: str) -> Callable[[_Function], _Function]:
    """Take an option without a value."""
    return click.option(name, is_flag=True, help=text)


yes = flag("--yes", "Do not ask.")


def dry_run(text: str = "Say what would be done; change nothing.") -> Callable[[_Function], _Function]:
    """Take `--dry-run`."""
    return flag("--dry-run", text)


def _choose(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value:
        ctx.ensure_object(Shared).env = value
