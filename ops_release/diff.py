"""What changes from one release to another, by file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ops_release.manifest import Manifest


def changes(old: Manifest, new: Manifest) -> dict[str, Any]:
    """Return the names of files and links that were added, removed and changed, and how many were not."""
    before = {**old.files, **old.links}
    after = {**new.files, **new.links}
    return {
        "from": old.id,
        "to": new.id,
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
        "unchanged": sum(before[name] == after[name] for name in before.keys() & after.keys()),
    }
