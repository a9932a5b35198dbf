"""Drill a set of files: read its list and every content that this names; the files are put nowhere."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from backupd.errors import CopyCorrupt, DrillFailed
from backupd.formatting import counted, printable
from backupd.model import FilesManifest
from backupd.system.held_file import HeldFile
from backupd.system.resources import require_space, reserve_bytes
from backupd.tasks.contents_check import CheckedFiles, Entries
from backupd.tasks.context import TaskContext
from backupd.tasks.drill.app_check import add_proven
from backupd.tasks.drill.session import SEND_AGAIN, DrillSession
from backupd.tasks.requests import DrillRequest, FilesRequest
from backupd.tasks.restore.extract import extract_list, listed_entries
from backupd.tasks.run import DrillRun

_MOST_NAMED: Final = 3


def check_files(
    request: DrillRequest, session: DrillSession, listed: HeldFile, run: DrillRun, context: TaskContext
) -> FilesManifest:
    """Verify the copy with its list as the new file `listed`, and return its manifest.

    Raises what `DrillSession.choose` raises, CopyCorrupt, NoSpace, ReplicaUnreachable.
    """
    place = Path(listed.directory.fixed_path)
    opened = session.opened(place)
    manifest = session.choose(request, FilesManifest, opened, run)
    reserve = reserve_bytes(place, request.reserve_bytes)
    require_space(place, manifest.files.list_bytes, reserve, f"a drill of {manifest.id}")
    context.progress.stage("fetch", manifest.archive.size_bytes)
    with listed.stream() as stream:
        extract_list(manifest, opened.store, stream, request.workers)
    run.details = replace(
        run.details,
        snapshot_bytes=manifest.files.size_bytes,
        archive_bytes=manifest.archive.size_bytes,
        snapshot_sha256=manifest.files.list_sha256,
        archive_sha256=manifest.archive.sha256,
    )
    context.progress.stage("contents", manifest.files.size_bytes)
    entries = partial(listed_entries, listed, manifest.id)
    found = opened.contents.check(entries, _MOST_NAMED, context.progress.advance)
    drill = replace(run.details.drill, files=found.files, files_missing=found.lacking)
    run.details = replace(run.details, drill=drill)
    _require_complete(found, manifest, request.store)
    add_proven(run, "digests", "contents")
    run.details = replace(run.details, verification=manifest.verdict.level)
    if request.files and request.files.query:
        _check_references(request.files, session, entries, run)
    return manifest


def _check_references(files: FilesRequest, session: DrillSession, entries: Entries, run: DrillRun) -> None:
    """Look for each file that the database names. Raises DrillFailed where one is not in the list."""
    references = session.references(files.source)
    if files.unread_query:
        run.warn(files.unread_query)
        return
    if references is None:
        run.note(
            f"files.{files.source}.query was not run: {files.database} was not restored from the same restore point"
        )
        return
    for entry in entries():
        if entry.type != "d":
            references.saw(entry.path)
    if references.lacking:
        run.details = replace(run.details, drill=replace(run.details.drill, files_missing=references.lacking))
        raise DrillFailed(
            str(references), "find out what removes these files, or names them before they exist (docs/drill.md)"
        )
    add_proven(run, "references")


def _require_complete(found: CheckedFiles, manifest: FilesManifest, store: str) -> None:
    expected = manifest.files
    if found.lacking:
        named = "; ".join(f"{printable(os.fsdecode(path))!r}: {fault}" for path, fault in found.named)
        more = f"; and {found.lacking - len(found.named)} more" if found.lacking > len(found.named) else ""
        raise CopyCorrupt(
            f"{manifest.id}: {found.lacking} of {counted(found.files, 'file')} cannot be restored from {store}: "
            f"{named}{more}",
            SEND_AGAIN,
        )
    if (found.files, found.size_bytes) != (expected.files, expected.size_bytes):
        raise CopyCorrupt(
            f"{manifest.id} differs from its manifest: {counted(found.files, 'file')} with {found.size_bytes} bytes, "
            f"not {expected.files} with {expected.size_bytes}",
            SEND_AGAIN,
        )
