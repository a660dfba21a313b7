"""Removes archives for good. Called under the lock that a vacuum holds, so that none of them is being written."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ops_agent.metadata.shelf.manifest import RUNNING, ArchiveError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops_agent.metadata.shelf.manifest import Archive

# An archive that is half removed must not look like a damaged one.
PRUNING = "pruning"


def older_than(archives: Sequence[Archive], seconds: float, now: datetime | None = None) -> list[Archive]:
    """Return the archives that a vacuum began before then, and those whose removal was interrupted.

    Raises ArchiveError if a manifest cannot be read: what it is from is not known.
    """
    now = now or datetime.now(UTC)
    chosen = []
    for archive in archives:
        manifest = archive.manifest()
        old = (now - datetime.fromisoformat(manifest.created_at)).total_seconds() > seconds
        if manifest.state == PRUNING or (old and manifest.state != RUNNING):
            chosen.append(archive)
    return chosen


def remove(archive: Archive) -> None:
    """Remove one archive, its manifest last; raise ArchiveError if a vacuum has yet to settle it."""
    manifest = archive.manifest()
    if manifest.state == RUNNING:
        raise ArchiveError(
            f"archive {archive.archive_id} belongs to a vacuum that has not ended;"
            f" type ops vacuum --env ENV --archive-to {archive.store.url}, which settles it"
        )
    archive.write(dataclasses.replace(manifest, state=PRUNING))
    for part in ("data", "batches", ""):
        archive.store.remove(archive.path(part).rstrip("/"))
