"""What becomes of a copy: one pure decision, and the one place that acts on it."""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from backupd import __version__
from backupd.archive.manifest import decode_manifest, encode_manifest
from backupd.errors import BackupdError, CopyCorrupt, NamesExhausted, SourceCorrupt, SourceEncrypted, SourceMissing
from backupd.formatting import human_bytes
from backupd.model import AnyManifest, Contents, Hold, Manifest, generation_id
from backupd.report import BackupDetails
from backupd.sqlite.shadow_tables import shadow_tables_of
from backupd.system.os_errors import os_error_text
from backupd.tasks.capture import Capture, PackedCopy, UnusableSource
from backupd.tasks.context import TaskContext
from backupd.tasks.events import (
    GenerationPublished,
    PruningHeld,
    PruningReleased,
    SnapshotQuarantined,
    SourceUnchanged,
)
from backupd.tasks.inventory import Inventory
from backupd.tasks.requests import BackupRequest, ShrinkGuard
from backupd.tasks.run import BackupRun
from backupd.tasks.verify import record_verification

_MAX_ATTEMPT: Final = 999
_MAX_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class SourceState:
    """What is known of a source before its copy is judged."""

    previous: Manifest | None  # the newest verified generation
    reference: Manifest | None  # what sizes are compared with: `previous`, or the last before a loss not accepted yet
    accepted: bool  # an operator has accepted that the source cannot be read any more
    quarantine: Path  # the directory for copies of it that may not be published


@dataclass(frozen=True, slots=True)
class PublicationDecision:
    """What to do with a copy of a source, and with the pruning of that source."""

    action: Literal["publish", "unchanged", "quarantine", "refuse"]  # unchanged: `previous` holds it; refuse: no copy
    hold: Hold | None = None  # set before the action: nothing of the source is pruned
    release: bool = False  # after the action the source is pruned again
    damage: tuple[str, ...] = ()  # findings, kept beside a copy in quarantine
    error: BackupdError | None = None  # raised after the action
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def source_state(source: str, inventory: Inventory, context: TaskContext) -> SourceState:
    """Read what is known of a source. Raises OSError."""
    previous, hold = inventory.last_database(source), context.holds.get(source)
    held = inventory.manifests.get(hold.reference or "") if hold else None
    reference = held if isinstance(held, Manifest) else None
    quarantine = context.store.hidden / "quarantine" / source
    return SourceState(previous, reference or previous, context.holds.accepted(source), quarantine)


def decide_publication(
    request: BackupRequest, capture: Capture | UnusableSource, state: SourceState, now: datetime
) -> PublicationDecision:
    """Decide about the copy of a source, or about a source that could not be copied.

    Damaged, suspect and emptied copies go into quarantine. Pruning is held for them, for a source that is corrupt or
    is missing or can no longer be read, and for one that shrank; a good copy that lost nothing releases it.
    """
    if isinstance(capture, UnusableSource):
        return _decide_without_copy(request, capture.error, state, now)
    verdict, contents, previous = capture.inspection.verdict, capture.inspection.contents, state.previous
    if verdict.level == "corrupt":
        return _quarantine(request, capture, verdict.damage, state, now)
    warnings, notes = list[str](), list[str]()
    if verdict.doubt:
        what = f"{request.path}: {verdict.doubt}"
        if previous is not None and _was_as_doubtful(previous, capture):
            notes.append(what)
        elif previous is None or state.accepted:
            warnings.append(f"{what} (verified {verdict.level})")
        else:
            return _distrust(request, capture, previous, state, now)
    if previous is not None and _lost_all_tables(previous, contents) and not request.allow_empty:
        decision = _quarantine(
            request, capture, (f"no tables are left of those in {previous.id}",), state, now, "empty"
        )
        return replace(decision, warnings=tuple(warnings), notes=tuple(notes))
    hold = None
    if state.reference is not None:
        found = losses(state.reference, contents, capture.snapshot.size_bytes, request.guard)
        if found:
            what = f"{request.source} shrank since {state.reference.id}: {'; '.join(found)}"
            accept = "backupd prune --unfreeze accepts it"
            warnings.append(f"{what}; nothing is pruned until it has grown back or {accept}")
            hold = Hold(request.source, "shrink", now, what, state.reference.id)
    action: Literal["publish", "unchanged"] = "unchanged" if capture.unchanged and previous else "publish"
    return PublicationDecision(action, hold, release=hold is None, warnings=tuple(warnings), notes=tuple(notes))


def _decide_without_copy(
    request: BackupRequest, error: BackupdError, state: SourceState, now: datetime
) -> PublicationDecision:
    """Hold the pruning of a source that is corrupt, or that was there and could be read when it was copied last."""
    previous = state.previous
    if isinstance(error, SourceCorrupt):
        return PublicationDecision("refuse", _hold(request, error.message, previous, now), error=error)
    if previous is None or (previous.verdict.level == "opaque" and isinstance(error, SourceEncrypted)):
        return PublicationDecision("refuse", error=error)
    what = f"{error.message}; it was copied as {previous.id}"
    refused = type(error)(f"{what}, and nothing is pruned", f"{error.hint}; or restore {previous.id}")
    hold = _hold(request, what, previous, now)
    if isinstance(error, SourceMissing):
        hold = replace(hold, kind="missing")
    return PublicationDecision("refuse", hold, error=refused)


def _quarantine(
    request: BackupRequest,
    capture: Capture,
    damage: tuple[str, ...],
    state: SourceState,
    now: datetime,
    state_word: Literal["corrupt", "empty"] = "corrupt",
) -> PublicationDecision:
    previous = state.previous
    good = f"the last good generation is {previous.id}" if previous else "there is no good generation yet"
    message = f"{request.path} is {state_word}: {damage[0]} ({len(damage)} findings); nothing is pruned, {good}"
    hint = (
        f"restore {previous.id}; if the database is meant to be empty, set allow_empty = true for one backup"
        if state_word == "empty" and previous
        else f"inspect the copy in {quarantine_of(capture, state)}; restore a good generation, "
        "or repair the database (sqlite3 .recover)"
    )
    hold = _hold(request, damage[0], previous, now)
    return PublicationDecision("quarantine", hold, damage=damage, error=CopyCorrupt(message, hint))


def _distrust(
    request: BackupRequest, capture: Capture, previous: Manifest, state: SourceState, now: datetime
) -> PublicationDecision:
    """Refuse a copy that cannot be verified though `previous` could: it must not push out copies that could."""
    doubt = capture.inspection.verdict.doubt
    error = CopyCorrupt(
        f"{request.path}: {doubt}; it could be read when {previous.id} was taken: nothing is pruned, "
        "nothing was published",
        f"restore {previous.id}, or inspect the copy in {quarantine_of(capture, state)}; if this is intended, "
        "backupd prune --unfreeze lets the next backup be published",
    )
    hold = _hold(request, doubt, previous, now, unreadable=True)
    return PublicationDecision("quarantine", hold, damage=(doubt,), error=error)


def _was_as_doubtful(previous: Manifest, capture: Capture) -> bool:
    verdict, before = capture.inspection.verdict, previous.verdict
    return bool(before.doubt) and (verdict.level != "opaque" or before.level == "opaque")


def _hold(
    request: BackupRequest, reason: str, previous: Manifest | None, now: datetime, *, unreadable: bool = False
) -> Hold:
    return Hold(request.source, "corrupt", now, reason, previous.id if previous else None, unreadable)


def quarantine_of(capture: Capture, state: SourceState) -> Path:
    """Return the directory that a copy has in the quarantine."""
    return state.quarantine / f"{state.quarantine.name}-{capture.taken_at:%Y%m%d-%H%M%S}"


def apply_publication(
    decision: PublicationDecision,
    request: BackupRequest,
    capture: Capture | UnusableSource,
    state: SourceState,
    run: BackupRun,
    context: TaskContext,
) -> None:
    """Do what was decided. Raises the error of the decision, OSError."""
    for warning in decision.warnings:
        run.warn(warning)
    for note in decision.notes:
        run.note(note)
    if decision.hold is not None:
        context.holds.set(decision.hold)
        run.emit(PruningHeld(decision.hold))
    if isinstance(capture, Capture):
        if decision.action == "quarantine":
            _put_in_quarantine(capture, decision.damage, request, state, run, context)
        elif decision.action == "unchanged" and state.previous is not None:
            record_unchanged(state.previous, run, context)
        elif decision.action == "publish" and capture.packed is not None:
            _publish(request.source, capture, capture.packed, run, context)
    if decision.error is not None:
        raise decision.error
    if decision.release and context.holds.release(request.source):
        run.emit(PruningReleased(request.source))


def _put_in_quarantine(
    capture: Capture,
    damage: tuple[str, ...],
    request: BackupRequest,
    state: SourceState,
    run: BackupRun,
    context: TaskContext,
) -> None:
    directory = quarantine_of(capture, state)
    try:
        context.quarantine.add(
            request.source, directory.name, capture.snapshot.file, damage, capture.source.may_be_read_by
        )
    except OSError as error:  # a full disk must not hide the damage
        run.warn(f"the damaged copy could not be kept: {os_error_text(error)}")
    run.emit(SnapshotQuarantined(f"the copy of {request.path} is not published: {damage[0]}", directory))


def _publish(source: str, capture: Capture, packed: PackedCopy, run: BackupRun, context: TaskContext) -> None:
    """Publish the copy as a new generation. Raises NamesExhausted, OSError."""
    manifest = Manifest(
        format=1,
        id=free_id(source, capture.taken_at, context),
        source=source,
        store=context.identity(),
        taken_at=capture.taken_at,
        backupd_version=__version__,
        origin=capture.source.facts,
        snapshot=capture.snapshot.facts(packed.facts.snapshot_sha256),
        archive=packed.facts.archive,
        contents=capture.inspection.contents,
        verdict=capture.inspection.verdict,
    )
    encoded = encode_manifest(manifest)
    decode_manifest(encoded, manifest.id)  # nothing is published that a restore would refuse
    with run.stage("publish"):
        context.store.place(manifest.id, packed.file, encoded, capture.source.may_be_read_by)
    run.emit(GenerationPublished(manifest))
    run.details = details_of(manifest, context)


def free_id(source: str, taken_at: datetime, context: TaskContext) -> str:
    """Return the next id of its minute, also past ids that were removed here: a replica may still hold one of these.

    Raises NamesExhausted.
    """
    ids = [generation_id(source, taken_at, attempt) for attempt in range(1, _MAX_ATTEMPT + 1)]
    in_use = context.store.ids_in_use() | context.copies().keys()
    last = max((number for number, one in enumerate(ids) if one in in_use), default=-1)
    if last + 1 == len(ids):
        raise NamesExhausted(f"{ids[last]} is taken, the last name that this minute has", "try again in a minute")
    return ids[last + 1]


def record_unchanged(previous: AnyManifest, run: BackupRun, context: TaskContext) -> None:
    """Record that the source still holds, digest for digest, what the previous generation holds."""
    run.emit(SourceUnchanged(previous))
    record_verification(previous.id, context, sound=True, detail="verified unchanged")
    run.details = details_of(previous, context)


def details_of(manifest: AnyManifest, context: TaskContext) -> BackupDetails:
    """Return what the report tells of the generation that holds a copy."""
    return BackupDetails(
        generation=manifest.id,
        archive_path=str(context.store.archive_path(manifest.id)),
        snapshot_bytes=manifest.content_bytes,
        archive_bytes=manifest.archive.size_bytes,
        snapshot_sha256=manifest.content_sha256,
        archive_sha256=manifest.archive.sha256,
        verification=manifest.verdict.level,
    )


def losses(before: Manifest, now: Contents | None, snapshot_bytes: int, guard: ShrinkGuard) -> list[str]:
    """Return in words what is alarming about `now` against `before`; nothing when the guard is off.

    Of contents that cannot be read (`None`) only the size is known.
    """
    if not guard.enabled:
        return []
    found: list[str] = []
    if before.contents is not None and now is not None:
        compared = _compared(before.contents, now)
        found = _tables_gone(before.contents, now, compared) + _rows_gone(before.contents, now, compared, guard)
    was = before.snapshot.size_bytes
    if snapshot_bytes < was * (1 - guard.max_size_loss):
        found.append(f"the database went from {human_bytes(was)} to {human_bytes(snapshot_bytes)}")
    return found


def _lost_all_tables(before: Manifest, now: Contents | None) -> bool:
    """Return whether every table is gone that the last generation had."""
    return before.contents is not None and bool(before.contents.tables) and now is not None and not now.tables


def _compared(before: Contents, now: Contents) -> dict[str, bool]:
    """Return which tables of `before` are compared with `now`, and whether their number of rows means anything.

    Shadow tables speak for a virtual table whose own rows are not known in both; otherwise they are its own affair.
    A virtual table whose rows are not known holds nothing but what is in those.
    """
    compared = dict.fromkeys(before.tables, True)
    for table, module in before.virtual.items():
        shadows = shadow_tables_of(table, module)
        known = before.tables.get(table) is not None and (table not in now.tables or now.tables[table] is not None)
        for gone in shadows if known else (table,):
            compared.pop(gone, None)
        compared |= {name: by_row for name, by_row in shadows.items() if name in compared}
    return compared


def _tables_gone(before: Contents, now: Contents, compared: dict[str, bool]) -> list[str]:
    """Return which tables are gone, except empty and renamed ones."""
    new = {name for name in now.tables if name not in before.tables}
    missing = [table for table in compared if table not in now.tables and before.tables[table] != 0]
    gone = []
    for table in sorted(missing, key=lambda name: before.tables[name] or 0, reverse=True):
        renamed = [name for name in new if _holds(name, now, table, before)]
        if renamed:
            new.remove(min(renamed, key=lambda name: (now.tables[name] or 0, name)))
        else:
            gone.append(table)
    more = f" and {len(gone) - _MAX_NAMED} more" if len(gone) > _MAX_NAMED else ""
    return [f"tables gone: {', '.join(sorted(gone)[:_MAX_NAMED])}{more}"] if gone else []


def _holds(new: str, now: Contents, table: str, before: Contents) -> bool:
    """Return whether `new` has the columns that `table` had, and at least as many rows."""
    had, has, columns = before.tables[table], now.tables[new], before.columns.get(table)
    return columns is not None and now.columns.get(new) == columns and (had is None or (has is not None and has >= had))


def _rows_gone(before: Contents, now: Contents, compared: dict[str, bool], guard: ShrinkGuard) -> list[str]:
    found = []
    for table, by_row in compared.items():
        was, rows = before.tables[table], now.tables.get(table)
        if not by_row or was is None or rows is None or was < guard.min_rows:
            continue
        if rows < was * (1 - guard.max_row_loss):
            found.append(f"{table} went from {was} to {rows} rows")
    return found
