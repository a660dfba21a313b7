"""Every runbook has the one form, and each `ops` command in it is one that exists."""

import re
import shlex
from pathlib import Path

import click
import pytest

from ops_cli import reference
from ops_cli.main import app

ROOT = Path(__file__).parents[3]
RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
SECTIONS = ["When", "Impact", "Prerequisites", "Steps", "Verify", "Roll back", "Escalate"]


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_runbook_has_the_one_form(path: Path) -> None:
    assert re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_runbooks_ops_commands_are_accepted_by_the_command_line(path: Path) -> None:
    typed = re.findall(r"^ {4,}ops (.+)$", path.read_text(), re.MULTILINE)
    assert typed
    commands = reference.commands(app) | {"releases": app.get_command(click.Context(app), "releases")}
    for words in map(shlex.split, typed):
        length = 2 if " ".join(words[:2]) in commands else 1
        # Raises if the command, an option or an argument is unknown; nothing is run.
        commands[" ".join(words[:length])].make_context("ops", words[length:])


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_runbooks_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / link).is_file(), link
