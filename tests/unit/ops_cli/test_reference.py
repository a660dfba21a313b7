from pathlib import Path

import typer

from ops_cli import reference
from ops_cli.main import app


def test_page_is_what_the_commands_say(root: Path) -> None:
    page = (root / "docs" / "reference" / "cli.md").read_text()
    stale = "docs/reference/cli.md is stale: .venv/bin/python -m ops_cli.reference > docs/reference/cli.md"
    assert page == reference.page(), stale


def test_every_command_and_option_says_what_it_does() -> None:
    group = typer.main.get_command(app)
    silent = [name for name, command in group.commands.items() if not command.help]
    commands = {"ops": group, **group.commands}
    silent += [
        f"{name} {option.name}" for name, command in commands.items() for option in command.params if not option.help
    ]
    assert silent == []
