from pathlib import Path

import click

from ops_cli import reference
from ops_cli.main import COMMANDS, app


def test_page_is_what_the_commands_say(root: Path) -> None:
    page = (root / "docs" / "reference" / "cli.md").read_text()
    assert page == reference.page(), "docs/reference/cli.md is stale; type: make reference"


def test_every_command_and_option_says_what_it_does() -> None:
    commands = {"ops": app, **reference.commands(app)}
    silent = [name for name, command in commands.items() if not command.help]
    silent += [
        f"{name} {option.name}"
        for name, command in commands.items()
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert silent == []


def test_list_of_commands_says_what_each_says_of_itself() -> None:
    context = click.Context(app)
    for name, text in COMMANDS.items():
        command = app.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert (command.help or "").startswith(text.removesuffix(".")), name


def test_what_changes_the_fleet_can_be_tried_agreed_to_and_parsed() -> None:
    changing = {
        "deploy",
        "rollback",
        "failover",
        "vacuum",
        "releases prune",
        "releases sign",
        "archive restore",
        "archive prune",
    }
    asking = set()
    for name, command in reference.commands(app).items():
        options = {word for option in command.params for word in option.opts}
        assert {"--env", "--format"} <= options, name
        if "--yes" in options:
            asking.add(name)
            assert "--dry-run" in options, name
    assert asking == changing
