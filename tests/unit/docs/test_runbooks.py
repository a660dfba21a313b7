"""Every runbook has the one form, and each `ops` command in it is one that exists."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from ops_cli.main import app

ROOT = Path(__file__).parents[3]
RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
SECTIONS = ["When", "Impact", "Prerequisites", "Steps", "Verify", "Roll back", "Escalate"]


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_runbook_has_the_one_form(path: Path) -> None:
    assert re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_runbooks_ops_commands_are_accepted_by_the_command_line(path: Path) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    commands = re.findall(r"^ {4,}ops (.+)$", path.read_text(), re.MULTILINE)
    assert commands
    for words in map(shlex.split, commands):
        command = group.commands[words[0]]
        # Raises if an option or an argument is unknown; nothing is run.
        command.make_context(words[0], words[1:])


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_runbooks_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / link).is_file(), link
