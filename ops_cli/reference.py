"""Writes docs/reference/cli.md from the commands themselves: `make reference`."""

import inspect
import sys

import typer
from typer.core import TyperCommand, TyperGroup

from ops_cli.console.errors import ExitCode
from ops_cli.main import app

_HEAD = """\
# The `ops` command

Generated from the command itself by `python -m ops_cli.reference`; a test fails when this page is stale.

`ops` runs on the control node, reads the fleet from `inventories/<env>` and reaches the hosts over SSH as Ansible does:
same address, user, key and known hosts. It starts in any directory of the checkout, or anywhere if `OPS_HOME` names it.
Where the inventory has an encrypted vault, `ANSIBLE_VAULT_PASSWORD_FILE` names the file with its password.
Answers go to stdout, talk and errors to stderr. `NO_COLOR` is honoured.
"""

_MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "the operation failed",
    ExitCode.USAGE: "wrong usage: an option, the environment or a setting",
    ExitCode.UNREACHABLE: "a host is unreachable; the answer names it",
    ExitCode.CHECK_FAILED: "a check failed: the fleet is degraded",
    ExitCode.LOCKED: "another holds the lock; the answer names who",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
}


def page() -> str:
    """Return the whole page."""
    group = typer.main.get_command(app)
    if not isinstance(group, TyperGroup):
        raise TypeError("the app has one command alone and no longer a group")
    parts = [_HEAD, "## Options before the command\n", _options(group, "ops")]
    for name, command in commands(group).items():
        parts += [f"## `ops {name}`\n", inspect.cleandoc(command.help or "") + "\n", _options(command, f"ops {name}")]
    codes = [f"| {code.value} | {_MEANINGS[code]} |" for code in ExitCode]
    return "\n".join([*parts, "## Exit codes\n", "| code | meaning |", "|---|---|", *codes]) + "\n"


def commands(group: TyperGroup) -> dict[str, TyperCommand]:
    """Return all commands by what is typed, those of groups within too."""
    found: dict[str, TyperCommand] = {}
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            found |= {f"{name} {verb}": inner for verb, inner in commands(command).items()}
        elif isinstance(command, TyperCommand):
            found[name] = command
    return found


def _options(command: TyperCommand | TyperGroup, usage: str) -> str:
    context = command.make_context(usage, [], resilient_parsing=True)
    records = [record for parameter in command.params if (record := parameter.get_help_record(context))]
    rows = [f"| `{option.replace('|', chr(92) + '|')}` | {' '.join(text.split())} |" for option, text in records]
    return "\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
