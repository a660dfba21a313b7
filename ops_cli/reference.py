"""Writes docs/reference/cli.md from the commands themselves: `make reference`."""

import inspect
import sys

import click

from ops_cli.console.errors import ExitCode
from ops_cli.main import app

_HEAD = """\
# The `ops` command

Generated from the command itself by `python -m ops_cli.reference`; a test fails when this page is stale.

`ops` runs on the control node, reads the fleet from `inventories/<env>` and reaches the hosts over SSH as Ansible does:
same address, user, key and known hosts. It starts in any directory of the checkout, or anywhere if `OPS_HOME` names it.
Where the inventory has an encrypted vault, `ANSIBLE_VAULT_PASSWORD_FILE` names the file with its password.
Answers go to stdout, talk and errors to stderr. `NO_COLOR` is honoured. The environment is that of `--env`, before or
after the command, else `OPS_ENV`, else the lab.

The shell completes commands, options and their fixed values after `eval "$(_OPS_COMPLETE=bash_source ops)"` in
~/.bashrc (`zsh_source` in ~/.zshrc, or fish's `_OPS_COMPLETE=fish_source ops | source`).
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
    parts = [_HEAD, "## Options before the command\n", _options(app)]
    for name, command in commands(app).items():
        usage = " ".join(["ops", name, *command.collect_usage_pieces(_context(command))])
        parts += [
            f"## `ops {name}`\n",
            f"    {usage}\n",
            inspect.cleandoc(command.help or "") + "\n",
            _options(command),
        ]
    codes = [f"| {code.value} | {_MEANINGS[code]} |" for code in ExitCode]
    return "\n".join([*parts, "## Exit codes\n", "| code | meaning |", "|---|---|", *codes]) + "\n"


def commands(group: click.Group) -> dict[str, click.Command]:
    """Return all commands by what is typed, those of groups within too."""
    found: dict[str, click.Command] = {}
    context = _context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            found |= {f"{name} {verb}": inner for verb, inner in commands(command).items()}
        elif command:
            found[name] = command
    return found


def _context(command: click.Command) -> click.Context:
    return click.Context(command, info_name="ops")


def _options(command: click.Command) -> str:
    context = _context(command)
    shown = [option for option in command.get_params(context) if "--help" not in option.opts]
    records = [record for option in shown if (record := option.get_help_record(context))]
    rows = [f"| `{option.replace('|', chr(92) + '|')}` | {' '.join(text.split())} |" for option, text in records]
    return "\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
