"""What one role uses of another is public: a name with two underscores stays in its role."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
ROLES = sorted((path.name for path in (ROOT / "roles").iterdir() if path.is_dir()), key=len, reverse=True)
PRIVATE = re.compile(r"(?<![\w.])__([a-z][a-z0-9_]*)")
TEXTS = (".yml", ".j2", ".yaml")


def owner(name: str) -> str:
    """Return the role that a private name belongs to; empty if it is none's."""
    return next((role for role in ROLES if name.startswith(f"{role}_")), "")


def texts(folder: Path) -> dict[Path, str]:
    return {path: path.read_text() for path in sorted(folder.rglob("*")) if path.suffix in TEXTS and path.is_file()}


def installers(template: Path) -> set[str]:
    """Return the roles whose tasks name a shared template, in full or as the unit that role airflow writes."""
    unit = f"airflow_unit: {template.name.removesuffix('.service.j2')}\n"
    return {
        path.relative_to(ROOT / "roles").parts[0]
        for path, text in texts(ROOT / "roles").items()
        if template.name in text or unit in text
    }


def test_no_role_uses_a_private_name_of_another() -> None:
    foreign = [
        f"{path.relative_to(ROOT)}: __{name}"
        for path, text in texts(ROOT / "roles").items()
        for name in PRIVATE.findall(text)
        if owner(name) not in {"", path.relative_to(ROOT / "roles").parts[0]}
    ]
    assert foreign == [], "make it public and put it into the argument specs of its role"


def test_no_shared_template_uses_a_private_name_of_a_role_that_does_not_install_it() -> None:
    foreign = [
        f"{path.relative_to(ROOT)}: __{name}"
        for folder in ("systemd", "haproxy")
        for path, text in texts(ROOT / folder).items()
        for name in PRIVATE.findall(text)
        if owner(name) and owner(name) not in installers(path)
    ]
    assert foreign == [], "make it public and put it into the argument specs of its role"


def test_no_inventory_and_no_playbook_uses_a_private_name_of_a_role() -> None:
    foreign = [
        f"{path.relative_to(ROOT)}: __{name}"
        for folder in ("inventories", "ansible")
        for path, text in texts(ROOT / folder).items()
        for name in PRIVATE.findall(text)
        if owner(name)
    ]
    assert foreign == [], "make it public and put it into the argument specs of its role"
