"""What becomes of the copy of a set of files: one pure decision, and the one place that acts on it."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from backupd import __version__
from backupd.archive.manifest import decode_manifest, encode_manifest
from backupd.formatting import counted, human_bytes
from backupd.model import FilesFacts, FilesManifest, Hold, Verdict
from backupd.tasks.context import TaskContext
from backupd.tasks.events import GenerationPublished, PruningHeld, PruningReleased
from backupd.tasks.files.capture import FilesCapture, shown_path
from backupd.tasks.inventory import Inventory
from backupd.tasks.publication import PublicationDecision, details_of, free_id, record_unchanged
from backupd.tasks.requests import FilesRequest, ShrinkGuard
from backupd.tasks.run import BackupRun

_CHECKS: Final = ("contents", "list")


@dataclass(frozen=True, slots=True)
class FilesState:
    """What is known of a set of files before its copy is judged."""

    previous: FilesManifest | None  # the newest verified generation
    reference: FilesManifest | None  # what is compared: `previous`, or the last before a loss not accepted yet


def files_state(source: str, inventory: Inventory, context: TaskContext) -> FilesState:
    """Read what is known of a set of files. Raises OSError."""
    newest, hold = inventory.last_verified(source), context.holds.get(source)
    previous = newest if isinstance(newest, FilesManifest) else None
    held = inventory.manifests.get(hold.reference or "") if hold else None
    return FilesState(previous, held if isinstance(held, FilesManifest) else previous)


def decide_files(
    request: FilesRequest, capture: FilesCapture, state: FilesState, now: datetime, lacking: Iterable[str] = ()
) -> PublicationDecision:
    """Decide about the copy of a set of files; `lacking` says which files that a database names are not in it.

    Pruning is held for a set that shrank; a copy that lost nothing releases it.
    """
    warnings, notes = [*_warnings(request, capture), *lacking], tuple(_notes(request, capture))
    hold, reference = None, state.reference
    files = capture.files or (state.previous.files if state.previous else None)
    if reference and files and (found := losses(reference.files, files, request.guard)):
        what = f"{request.source} shrank since {reference.id}: {'; '.join(found)}"
        accept = "backupd prune --unfreeze accepts it"
        warnings.append(f"{what}; nothing is pruned until it has grown back or {accept}")
        hold = Hold(request.source, "shrink", now, what, reference.id)
    action: Literal["publish", "unchanged"] = "unchanged" if capture.unchanged and state.previous else "publish"
    return PublicationDecision(action, hold, release=hold is None, warnings=tuple(warnings), notes=notes)


def losses(before: FilesFacts, now: FilesFacts, guard: ShrinkGuard) -> list[str]:
    """Return in words what is alarming about `now` against `before`; nothing when the guard is off."""
    found = list[str]()
    if guard.enabled and before.files >= guard.min_rows:
        if now.files < before.files * (1 - guard.max_row_loss):
            found.append(f"from {before.files} to {counted(now.files, 'file')}")
        if now.size_bytes < before.size_bytes * (1 - guard.max_size_loss):
            found.append(f"from {human_bytes(before.size_bytes)} to {human_bytes(now.size_bytes)}")
    return found


def apply_files(
    decision: PublicationDecision,
    request: FilesRequest,
    capture: FilesCapture,
    state: FilesState,
    run: BackupRun,
    context: TaskContext,
) -> None:
    """Do what was decided. Raises NamesExhausted, OSError."""
    run.warn_all(decision.warnings)
    for note in decision.notes:
        run.note(note)
    if decision.hold is not None:
        context.holds.set(decision.hold)
        run.emit(PruningHeld(decision.hold))
    manifest = state.previous
    if decision.action == "publish":
        manifest = _publish(request.source, capture, run, context)
    elif manifest is not None:
        record_unchanged(manifest, run, context)
    if manifest is not None:
        _report(manifest, capture, run)
    if decision.release and context.holds.release(request.source):
        run.emit(PruningReleased(request.source))


def _publish(source: str, capture: FilesCapture, run: BackupRun, context: TaskContext) -> FilesManifest:
    assert capture.files is not None  # noqa: S101 - for the type checker
    assert capture.packed is not None  # noqa: S101
    manifest = FilesManifest(
        kind="files",
        format=1,
        id=free_id(source, capture.since, context),
        source=source,
        store=context.identity(),
        taken_at=capture.since,
        backupd_version=__version__,
        origin=capture.directory.facts,
        files=capture.files,
        archive=capture.packed.facts.archive,
        verdict=Verdict("structural" if _unreadable(capture) else "full", _CHECKS),
    )
    encoded = encode_manifest(manifest)
    decode_manifest(encoded, manifest.id)  # nothing is published that a restore would refuse
    with run.stage("publish"):
        may_read = capture.directory.may_be_read_by
        context.store.place(manifest.id, capture.packed.file, encoded, may_read, kind="files")
    run.emit(GenerationPublished(manifest))
    run.details = details_of(manifest, context)
    return manifest


def _report(manifest: FilesManifest, capture: FilesCapture, run: BackupRun) -> None:
    seen, stored = capture.seen, capture.findings.stored_bytes
    run.details = replace(
        run.details,
        archive_bytes=manifest.archive.size_bytes + stored,
        files=manifest.files.files,
        new_files=seen.new,
        changed_files=seen.changed,
        gone_files=seen.gone,
        skipped=manifest.files.skipped,
    )


def _unreadable(capture: FilesCapture) -> int:
    return capture.seen.unreadable + capture.findings.unreadable_count


def _warnings(request: FilesRequest, capture: FilesCapture) -> Iterator[str]:
    seen, findings, source = capture.seen, capture.findings, request.source
    if count := _unreadable(capture):
        names = _named([*seen.unreadable_names, *map(shown_path, findings.unreadable)], count)
        owner, reader = capture.directory.facts.uid, os.geteuid() or capture.directory.facts.uid
        who = f"uid {reader}, the owner of {request.path}"
        if reader != owner:
            who = f"uid {reader} (with PUID=0 backupd reads {request.path} as its owner, uid {owner})"
        what = f"{counted(count, 'file')} of {source} could not be read by {who}"
        yield f"{what}, and {_are(count)} not in the copy: {names}"
    if count := capture.not_held:
        yield (
            f"{counted(count, 'file')} of {source} could not be held while databases were copied, and may lack what "
            "these name: allow more open files (ulimit -n; docker run --ulimit nofile=20000)"
        )
    if findings.silently:
        names = _named(map(shown_path, findings.silently), len(findings.silently))
        yield (
            f"the content of {names} is not what was read before, though size and times are: test the disk (smartctl), "
            f"and compare it with an older generation of {source}"
        )
    if count := findings.missing:
        yield f"the contents of {counted(count, 'file')} of {source} were no longer in the store, and are stored again"
    if count := capture.uncovered_count:
        names = _named(capture.uncovered, count)
        yield (
            f"{counted(count, 'file')} of {source} {_are(count)} SQLite: {names}; a copy of one that is open may be "
            "torn: add it to [sources] by its own path, or to exclude"
        )


def _notes(request: FilesRequest, capture: FilesCapture) -> Iterator[str]:
    seen, findings, source = capture.seen, capture.findings, request.source
    if count := findings.changed_count:
        names = _named(map(shown_path, findings.changed), count)
        yield f"{counted(count, 'file')} of {source} changed again and again while being copied: {names}"
    if seen.vanished:
        yield f"{counted(seen.vanished, 'file')} of {source} vanished while the directory was read"
    if seen.special:
        yield f"{counted(seen.special, 'file')} of {source} skipped: sockets, pipes and devices have no content"
    if seen.mounts:
        yield f"not entered, since something is mounted there: {', '.join(seen.mounts)} in {request.path}"


def _named(names: Iterable[str], count: int) -> str:
    shown = list(names)[:3]
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return f"{', '.join(shown)}{more}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
