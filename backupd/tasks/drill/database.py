"""Drill a database: fetch its archive, unpack it, verify it, and compare it with its manifest."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from backupd.errors import CopyCorrupt
from backupd.model import Contents, Manifest
from backupd.sqlite.inspection import Inspection
from backupd.system.held_file import HeldFile
from backupd.system.resources import require_space, reserve_bytes
from backupd.tasks.context import TaskContext
from backupd.tasks.drill.app_check import add_proven
from backupd.tasks.drill.session import SEND_AGAIN, DrillSession
from backupd.tasks.requests import DrillRequest
from backupd.tasks.restore.extract import extract_verified, fetch
from backupd.tasks.run import DrillRun

_MOST_DIFFERENCES: Final = 3


def restore_database(
    request: DrillRequest, session: DrillSession, target: HeldFile, run: DrillRun, context: TaskContext
) -> Manifest:
    """Restore the copy as the new file `target`, and return its manifest.

    Raises what `DrillSession.choose` raises, CopyCorrupt, NoSpace, ReplicaUnreachable.
    """
    place = Path(target.directory.fixed_path)
    reserve = reserve_bytes(place, request.reserve_bytes)
    opened = session.opened(place)
    manifest = session.choose(request, Manifest, opened, run)
    _require_space(manifest, request, place, reserve)
    fetched = fetch(manifest, opened.store, target.directory, reserve, context)
    _verify(extract_verified(manifest, fetched, target, request.workers, context, reserve), manifest, run)
    fetched.remove()  # the app needs the space
    session.read_references(manifest, target, run)
    return manifest


def _require_space(manifest: Manifest, request: DrillRequest, directory: Path, reserve: int) -> None:
    """Raise NoSpace where archive, database and the copy for the second instance of the app would not fit."""
    what, size_bytes = f"a drill of {manifest.id}", manifest.snapshot.size_bytes
    needed = manifest.archive.size_bytes + size_bytes
    place_at = request.app.place_at if request.app else None
    if place_at and place_at.parent.stat().st_dev == directory.stat().st_dev:
        needed += size_bytes
    elif place_at:
        require_space(place_at.parent, size_bytes, reserve_bytes(place_at.parent, request.reserve_bytes), what)
    require_space(directory, needed, reserve, what)


def _verify(inspection: Inspection, manifest: Manifest, run: DrillRun) -> None:
    """Report how the unpacked copy was verified, and compare it with the manifest. Raises CopyCorrupt."""
    add_proven(run, "digests", *inspection.verdict.checks)
    run.details = replace(
        run.details,
        snapshot_bytes=manifest.snapshot.size_bytes,
        archive_bytes=manifest.archive.size_bytes,
        snapshot_sha256=manifest.snapshot.sha256,
        archive_sha256=manifest.archive.sha256,
        verification=inspection.verdict.level,
    )
    if differing := differences(inspection.contents, manifest.contents):
        raise CopyCorrupt(f"{manifest.id} differs from its manifest: {differing}", SEND_AGAIN)
    if manifest.contents is not None:
        add_proven(run, "contents")


def differences(found: Contents | None, expected: Contents | None) -> str:
    """Return how the contents `found` in a copy differ from those `expected`; empty if they do not, or if None are.

    Tables whose rows could not be counted (`None`) are skipped: counting may take functions that only the app has.
    """
    if expected is None:
        return ""
    if found is None:
        return "its contents could not be counted"
    all_of_them = list(_differences(found, expected))
    more = len(all_of_them) - _MOST_DIFFERENCES
    return "; ".join(all_of_them[:_MOST_DIFFERENCES]) + (f" and {more} more differences" if more > 0 else "")


def _differences(found: Contents, expected: Contents) -> Iterator[str]:
    for table in sorted(expected.tables.keys() - found.tables.keys()):
        yield f"table {table} is missing"
    for table in sorted(found.tables.keys() - expected.tables.keys()):
        yield f"table {table} is not in the manifest"
    for table in sorted(found.tables.keys() & expected.tables.keys()):
        rows, wanted = found.tables[table], expected.tables[table]
        if None not in (rows, wanted) and rows != wanted:
            yield f"table {table} has {rows} rows, not {wanted}"
    if found.schema_sha256 != expected.schema_sha256:
        yield "its schema has another digest"
