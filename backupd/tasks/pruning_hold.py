"""Freeze rotation when a source looks wrong, and let it go on when it looks right again."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from backupd.errors import BackupdError, CopyCorrupt, SourceCorrupt, SourceEncrypted, SourceUnreadable
from backupd.formatting import human_bytes
from backupd.log import Event
from backupd.model import Contents, Hold, Manifest
from backupd.sqlite.shadow_tables import shadows_of
from backupd.tasks.capture import Capture
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import Inventory
from backupd.tasks.requests import BackupRequest, ShrinkGuard
from backupd.tasks.run import BackupRun

_NAMED = 5
_UNFREEZE = "backupd prune --unfreeze accepts it"


@contextmanager
def frozen_on_corruption(request: BackupRequest, last: Manifest | None, context: TaskContext) -> Iterator[None]:
    """Freeze rotation when the block finds the source too damaged to be copied, or unreadable since the `last` copy."""
    try:
        yield
    except SourceCorrupt as error:
        _hold(request, "corrupt", error.message, last, context)
        raise
    except SourceUnreadable as error:
        if last is None or (last.verdict.level == "opaque" and isinstance(error, SourceEncrypted)):
            raise
        what = f"{error.message}; it was copied as {last.id}"
        _hold(request, "corrupt", what, last, context)
        raise type(error)(f"{what}, and nothing is pruned", f"{error.hint}; or restore {last.id}") from error


def quarantined(
    request: BackupRequest, proof: Capture, findings: tuple[str, ...], last: Manifest | None, context: TaskContext
) -> BackupdError:
    """Put a corrupt copy aside, freeze rotation, and return the error that ends the run."""
    _hold(request, "corrupt", findings[0], last, context)
    place = _put_aside(request, proof, findings, context, "is corrupt")
    good = f"the last good generation is {last.id}" if last else "there is no good generation yet"
    return CopyCorrupt(
        f"{request.path} is corrupt: {findings[0]} ({len(findings)} findings); nothing is pruned, {good}",
        f"look at the copy in {place}; restore a good generation, or repair the database (sqlite3 .recover)",
    )


def _put_aside(
    request: BackupRequest, proof: Capture, findings: tuple[str, ...], context: TaskContext, what: str
) -> Path:
    name = f"{request.source}-{proof.taken_at:%Y%m%d-%H%M%S}"
    place = context.store.hidden / "quarantine" / request.source / name
    with suppress(OSError):  # a full disk must not hide the news
        context.quarantine.add(request.source, name, proof.snapshot.path, findings)
    context.log.error(
        Event.SNAPSHOT_QUARANTINED,
        f"the copy of {request.path} {what}: {findings[0]}",
        quarantine=str(place),
    )
    return place


def admit_doubt(
    request: BackupRequest, proof: Capture, last: Manifest | None, run: BackupRun, context: TaskContext
) -> None:
    """Let a copy pass whose check found no damage and could not rule it out; say so once, and note it from then on.

    Raises CopyCorrupt, with the copy in quarantine, when there was no such doubt of the `last` one, unless an operator
    has accepted it: a database that can no longer be read must not push out copies of when it could.
    """
    verdict = proof.inspection.verdict
    what = f"{request.path}: {verdict.doubt}"
    if not verdict.doubt:
        return
    if last is not None and last.verdict.doubt and (verdict.level != "opaque" or last.verdict.level == "opaque"):
        run.note(what)
    elif last is None or context.holds.accepted(request.source):
        run.warn(f"{what} (verified {verdict.level})")
    else:
        _hold(request, "corrupt", verdict.doubt, last, context, unreadable=True)
        place = _put_aside(request, proof, (verdict.doubt,), context, "cannot be trusted")
        raise CopyCorrupt(
            f"{what}; it could be read when {last.id} was taken: nothing is pruned, nothing was published",
            f"restore {last.id}, or look at the copy in {place}; if it is meant so, backupd prune --unfreeze lets the "
            "next backup be published",
        )


def emptied_error(request: BackupRequest, proof: Capture, last: Manifest, context: TaskContext) -> BackupdError:
    """Do the same with a copy that has none of the tables of the last generation any more."""
    error = quarantined(request, proof, (f"no tables are left of those in {last.id}",), last, context)
    hint = f"restore {last.id}; if the database is meant to be empty, set allow_empty = true for one backup"
    return CopyCorrupt(error.message.replace("is corrupt", "is empty"), hint)


def guard_against_shrinking(
    request: BackupRequest,
    contents: Contents | None,
    snapshot_bytes: int,
    inventory: Inventory,
    run: BackupRun,
    context: TaskContext,
) -> bool:
    """Freeze rotation, before anything is published, when the source lost much; True when it did.

    The comparison is with the last generation before the loss for as long as nobody accepted it: else the first
    shrunken copy would make the second look right.
    """
    hold = context.holds.get(request.source)
    reference = inventory.manifests.get(hold.reference or "") if hold else None
    reference = reference or inventory.last_verified(request.source)
    found = losses(reference, contents, snapshot_bytes, request.guard) if reference else []
    if not found:
        return False
    what = f"{request.source} shrank since {reference.id if reference else ''}: {'; '.join(found)}"
    context.log.warning(Event.SOURCE_SHRUNK, what, source=request.source)
    run.warn(f"{what}; nothing is pruned until it has grown back or {_UNFREEZE}")
    _hold(request, "shrink", what, reference, context)
    return True


def thaw(source: str, context: TaskContext) -> None:
    """Let rotation go on after a sound backup that lost nothing."""
    if context.holds.release(source):
        context.log.info(Event.ROTATION_RELEASED, f"{source} is sound again: pruning goes on", source=source)


def _hold(
    request: BackupRequest,
    kind: Literal["corrupt", "shrink"],
    reason: str,
    last: Manifest | None,
    context: TaskContext,
    *,
    unreadable: bool = False,
) -> None:
    hold = Hold(
        source=request.source,
        kind=kind,
        since=context.clock(),
        reason=reason,
        reference=last.id if last else None,
        unreadable=unreadable,
    )
    context.holds.set(hold)
    context.log.warning(
        Event.ROTATION_FROZEN, f"pruning of {request.source} is frozen: {reason}", source=request.source
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


def emptied(before: Manifest, now: Contents | None) -> bool:
    """Tell whether every table is gone that the last generation had."""
    return before.contents is not None and bool(before.contents.tables) and now is not None and not now.tables


def _compared(before: Contents, now: Contents) -> dict[str, bool]:
    """Return which tables of `before` are compared with `now`, and whether their number of rows means anything.

    Shadow tables speak for a virtual table whose own rows are not known in both; otherwise they are its own affair.
    A virtual table whose rows are not known holds nothing but what is in those.
    """
    compared = dict.fromkeys(before.tables, True)
    for table, module in before.virtual.items():
        shadows = shadows_of(table, module)
        known = before.tables.get(table) is not None and (table not in now.tables or now.tables[table] is not None)
        for gone in shadows if known else (table,):
            compared.pop(gone, None)
        compared |= {name: by_row for name, by_row in shadows.items() if name in compared}
    return compared


def _tables_gone(before: Contents, now: Contents, compared: dict[str, bool]) -> list[str]:
    """Tell which tables are gone. One that was empty held nothing, and one that was renamed still holds it."""
    new = {name for name in now.tables if name not in before.tables}
    missing = [table for table in compared if table not in now.tables and before.tables[table] != 0]
    gone = []
    for table in sorted(missing, key=lambda name: before.tables[name] or 0, reverse=True):
        renamed = [name for name in new if _holds(name, now, table, before)]
        if renamed:
            new.remove(min(renamed, key=lambda name: (now.tables[name] or 0, name)))
        else:
            gone.append(table)
    more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
    return [f"tables gone: {', '.join(sorted(gone)[:_NAMED])}{more}"] if gone else []


def _holds(new: str, now: Contents, table: str, before: Contents) -> bool:
    """Tell whether `new` has the columns that `table` had, and at least as many rows."""
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
