"""A default lives once: what a role's defaults say and what its argument_specs promise are the same."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted(path.name for path in (Path(__file__).parents[3] / "roles").iterdir() if (path / "tasks").is_dir())


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {} if path.is_file() else {}


def defaults(root: Path, role: str) -> dict[str, Any]:
    found = read(root / "roles" / role / "defaults" / "main.yml")
    return {name: value for name, value in found.items() if not name.startswith("__")}


def options(root: Path, role: str) -> dict[str, dict[str, Any]]:
    specs = read(root / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]
    return {name: option for spec in specs.values() for name, option in spec.get("options", {}).items()}


def is_computed(value: object) -> bool:
    return "{{" in str(value) or "{%" in str(value)


@pytest.mark.parametrize("role", ROLES)
def test_every_default_is_specified_with_the_same_value(root: Path, role: str) -> None:
    specified = options(root, role)
    wrong = {}
    for name, value in defaults(root, role).items():
        if name not in specified:
            wrong[name] = "not in argument_specs"
        elif is_computed(value):
            if "default" in specified[name]:
                wrong[name] = "computed, so the specs must not repeat it"
        elif specified[name].get("default") != value:
            wrong[name] = f"default {value!r}, specified {specified[name].get('default')!r}"
    assert wrong == {}


@pytest.mark.parametrize("role", ROLES)
def test_every_specified_input_is_required_or_has_a_default(root: Path, role: str) -> None:
    known = defaults(root, role)
    wrong = {
        name: "required, so it must have no default" if option.get("required") else "neither required nor a default"
        for name, option in options(root, role).items()
        if bool(option.get("required")) == (name in known)
    }
    assert wrong == {}


@pytest.mark.parametrize("role", ROLES)
def test_every_input_is_named_after_its_role_and_says_what_it_is(root: Path, role: str) -> None:
    wrong = [
        name
        for name, option in options(root, role).items()
        if not name.startswith(f"{role}_") or not option.get("description") or not option.get("type")
    ]
    assert wrong == []


@pytest.mark.parametrize("role", ROLES)
def test_every_role_says_what_it_is_for(root: Path, role: str) -> None:
    assert (root / "roles" / role / "README.md").is_file()
