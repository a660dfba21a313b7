"""Whether an archive is still what was written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ops_agent.metadata.shelf import reader
from ops_agent.metadata.shelf.manifest import DONE, ROOT_COLUMN, ArchiveError, Batch, DataFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from ops_agent.metadata.shelf.manifest import Archive, Manifest


@dataclass
class Report:
    """What was read, and one line for each thing that is wrong."""

    archive_id: str
    batches: int = 0
    files: int = 0
    rows: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)


def verify(archive: Archive, progress: Callable[[Report], None] = lambda _: None) -> Report:
    """Read every file of the archive from where it is kept, and compare it with what was written.

    Raises ArchiveError only if there is no manifest to compare with.
    """
    manifest = archive.manifest()
    report = Report(archive.archive_id)
    numbers = []
    try:
        for batch in archive.batches():
            numbers.append(batch.number)
            if batch.state == DONE:
                _batch(archive, manifest, batch, report)
                progress(report)
    except ArchiveError as error:
        report.problems.append(str(error))
    missing = sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers))
    # A batch that was never exported has no document, so a gap is a document that was lost.
    report.problems += [f"archive {archive.archive_id}: batch {number} has no document" for number in missing]
    rows = sum(table.get("archived", 0) for table in manifest.result.get("tables", []))
    if manifest.finished_at and not report.problems and rows not in {0, report.rows}:
        report.problems.append(f"archive {archive.archive_id}: {report.rows} rows are there, {rows} were archived")
    return report


def _batch(archive: Archive, manifest: Manifest, batch: Batch, report: Report) -> None:
    report.batches += 1
    roots: set[str] = set()
    for file in batch.files:
        try:
            roots |= _file(archive, manifest, file)
        except ArchiveError as error:
            report.problems.append(str(error))
        report.files += 1
        report.rows += file.rows
        report.bytes += file.bytes
    if not report.problems and len(roots) != batch.roots:
        report.problems.append(
            f"archive {archive.archive_id}: batch {batch.number} has {len(roots)} roots, {batch.roots} were archived"
        )


def _file(archive: Archive, manifest: Manifest, file: DataFile) -> set[str]:
    """Return the roots of the file's rows."""
    found = reader.read(archive, file, manifest.table(file.table))
    return set(found.column(ROOT_COLUMN).unique().to_pylist())
