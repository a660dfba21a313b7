"""Asks the operator before something is changed."""

import sys

import click

from ops_cli.console.errors import OpsError, UsageError


def confirm(consequence: str, env: str, *, yes: bool) -> None:
    """Return if the operator agrees to `consequence`: `y` in the lab, elsewhere the environment's name.

    Raises OpsError if he does not, UsageError if there is nobody to ask and `yes` is not set.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{consequence} Nobody is at a terminal to agree: add --yes")
    word = "y" if env == "lab" else env
    answer = click.prompt(f"{consequence}\nType {word} to go on", default="", show_default=False, err=True)
    if answer.strip().lower() != word.lower():
        raise OpsError("declined: nothing was changed")
