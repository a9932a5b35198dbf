"""Restore a generation in place of its app's database, so that nothing gets worse.

    lock, heal → refuse users → unpack beside it and prove → settle the old one → lease → swap → tell how to undo it

Until the swap nothing of the app is touched but what it would do itself when it starts; the old database stays.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Self

from backupd.errors import OR_ONLINE, STOP_THE_APP, CopyCorrupt, GenerationMissing, LockHeld, TargetInUse
from backupd.log import Event
from backupd.model import Manifest, Verification
from backupd.report import RestoreDetails, RunReport
from backupd.sqlite.history import Kind, RecordedRestore, RestoreRecord, choose_undo, recorded_names, restore_history
from backupd.sqlite.permissions import Permissions, permission_warning
from backupd.sqlite.swap import remove_part, swap, sweep_parts
from backupd.sqlite.swap_journal import part_path
from backupd.sqlite.target import CheckpointResult, Target, apply_ownership, set_journal_mode
from backupd.sqlite.target_locks import restore_lock
from backupd.stores.contract import Archives
from backupd.system.fs import collect_limits
from backupd.system.owners import owner_text
from backupd.tasks.context import TaskContext
from backupd.tasks.disk_space import require_space
from backupd.tasks.inventory import Choose
from backupd.tasks.prune import pin_if_possible
from backupd.tasks.requests import PinRequest
from backupd.tasks.restore.extract import extract_verified
from backupd.tasks.restore.presence import database_is_there
from backupd.tasks.restore.recovery import heal_restore
from backupd.tasks.run import RestoreRun
from backupd.tasks.verify import record_verification

RESTORED_FROM = "it was restored from"


@dataclass(frozen=True, slots=True)
class TakenBack:
    """The restore (or undo, or redo) that an undo takes back: what that had put in place, and when.

    `puts_back` is the path of the old database that it kept, or the generation that was backed up before it.
    """

    kind: Kind
    generation: str | None
    restored_at: datetime
    puts_back: str

    @classmethod
    def of(cls, entry: RecordedRestore) -> Self:
        """Return what is told of `entry`."""
        record = entry.record
        return cls(record.kind, record.generation, entry.restored_at, record.safety or str(entry.path))


@dataclass(frozen=True, slots=True)
class InPlaceResult:
    """What a restore in place did, or with `dry_run` would do.

    `kept` is the old database, None when there was none or it was overwritten; `old_damage` says in words how it was
    damaged, `old_undecided` why it was kept with its journal; `undo` is the command that takes the restore back;
    `notes` tell what the file system cannot do. `directory` is what an empty directory was given. An undo says what it
    takes back. `level` is how far the generation was verified.
    """

    source: str
    generation: str | None
    taken_at: datetime | None
    target: str
    snapshot_bytes: int
    snapshot_sha256: str | None
    owner: str
    mode: str
    dry_run: bool
    kept: str | None = None
    old_damage: str = ""
    old_undecided: str = ""
    undo: str | None = None
    directory: str | None = None
    notes: tuple[str, ...] = ()
    takes_back: TakenBack | None = None
    level: Verification | None = None


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """What is to be put where: the database of `source` at `path`; `stopped` is the operator's word for the app.

    `directory` is what its directory, empty so far, is given (or in a dry run would be). With `if_missing` a database
    that is there stays, and a restore that is at work there is waited for; `empty_is_data` as for `database_is_there`.
    `takes_back` is the restore that this one undoes.
    """

    source: str
    path: Path
    workers: int
    stopped: bool = False
    dry_run: bool = False
    directory: Permissions | None = None
    if_missing: bool = False
    empty_is_data: bool = False
    takes_back: RecordedRestore | None = None


def replace_database(
    choose: Choose, request: RestoreRequest, store: Archives, context: TaskContext
) -> tuple[RunReport[RestoreDetails], InPlaceResult | None]:
    """Restore a generation of `store` over the database of its source; the report tells of trouble.

    Which one, `choose` tells once nobody else is at work on the store: who was may have published and removed some.
    Refused while anybody has that database open. The old one is kept beside it as `….pre-restore-TIME`.
    """
    wait_s = context.lock_timeout_s if request.if_missing else 0.0
    if request.dry_run:
        manifest, run = choose(), context.new_run("restore", request.source, RestoreDetails())
        with _offering_online(request, context):
            rehearsed = _rehearsed(manifest, request, run)
        return run.report, rehearsed
    done = None
    with (
        context.run("restore", request.source, RestoreDetails()) as run,
        context.exclusive_lock_if_writable("restore"),
        restore_lock(request.path, wait_s),
        _offering_online(request, context),
    ):
        context.recover()
        run.start()
        heal_restore(request.path, context)
        if request.if_missing and database_is_there(request.path, empty_is_data=request.empty_is_data):
            run.note(f"a database has appeared at {request.path}: it stays")
            return run.report, None
        require_newest(request)
        manifest = choose()
        run.details = RestoreDetails(generation=manifest.id, snapshot_bytes=manifest.snapshot.size_bytes)
        done = _replace(manifest, request, _target(manifest, request), store, run, context)
    return run.report, done and replace(done, notes=run.report.notes)


def require_newest(request: RestoreRequest) -> None:
    """Refuse to undo what is not the last restore any more, once nobody else is at work here. Raises LockHeld."""
    entry = request.takes_back
    if entry is None:
        return
    entries = restore_history(Path(os.path.realpath(request.path)))
    with suppress(GenerationMissing):
        if entry in (choose_undo(entries, redo=redo) for redo in (False, True)):
            return
    raise LockHeld(f"another restore came in between at {request.path}", "look at what it did, and run it again")


@contextmanager
def _offering_online(request: RestoreRequest, context: TaskContext) -> Iterator[None]:
    """Name the restore into the live database to an app that is not stopped, where that is possible."""
    try:
        yield
    except TargetInUse as error:
        possible = (
            Path(request.path).exists() and context.store.writable() and not (request.if_missing or request.takes_back)
        )
        if possible and error.hint == STOP_THE_APP:
            raise TargetInUse(error.message, f"{error.hint}{OR_ONLINE}") from error
        raise


def _rehearsed(manifest: Manifest, request: RestoreRequest, run: RestoreRun) -> InPlaceResult:
    """Return what the restore comes to, owner and mode as the file system lets a file of no name have them."""
    target = _target(manifest, request)
    _warn_of_directory(target, manifest, request, run)
    with collect_limits() as limits:
        owner, mode = target.try_ownership(manifest.origin)
    return replace(planned(manifest, request, target), owner=owner, mode=mode, notes=tuple(limits))


def _target(manifest: Manifest, request: RestoreRequest) -> Target:
    """Look at the place, before hours are spent on fetching. Raises TargetInUse, TargetRefused, NoSpace."""
    target = Target.inspect(request.path)
    with target.lease(stopped=request.stopped):
        pass
    needed = manifest.snapshot.size_bytes + target.bytes_in_use
    require_space(target.path.parent, needed, 0, f"restoring {manifest.id}")
    target.try_ownership(manifest.origin)
    return target


def _replace(
    manifest: Manifest,
    request: RestoreRequest,
    target: Target,
    store: Archives,
    run: RestoreRun,
    context: TaskContext,
) -> InPlaceResult:
    part = part_path(target.path)
    sweep_parts(target.path)  # we are alone: none is at work
    try:
        with run.stage("unpack"):
            extract_verified(manifest, store, part, request.workers, context)
        set_journal_mode(part, manifest.snapshot.journal_mode)
        owner, mode = apply_ownership(part, target, manifest.origin)
        done = replace(planned(manifest, request, target), owner=owner, mode=mode)
        with run.stage("swap"):
            pin_if_possible(manifest.id, PinRequest(RESTORED_FROM), run, context)
            done = put_in_place(done, target, part, request, context)
    except CopyCorrupt as error:
        record_verification(manifest.id, context, sound=False, detail=error.message, store=store.name)
        raise
    finally:
        remove_part(part)
    _warn_of_directory(target, manifest, request, run)
    tell_restored(f"restored {manifest.id} in place of {target.path}", done, context)
    return done


def _warn_of_directory(target: Target, manifest: Manifest, request: RestoreRequest, run: RestoreRun) -> None:
    """Warn where the app could not write beside a database that was not there before."""
    if target.old is not None or os.geteuid() != 0:  # not root: the new database is ours, and we may write there
        return
    rights = request.directory or Permissions.of(target.path.parent)
    if warning := permission_warning(target.path.parent, rights, manifest.origin):
        run.warn(warning)


def put_in_place(
    done: InPlaceResult, target: Target, part: Path, request: RestoreRequest, context: TaskContext
) -> InPlaceResult:
    """Bring the old database to rest, make sure that nobody has opened it since, and put `part` in its place."""
    target = Target.inspect(target.path)  # anew: an app that started meanwhile may have made one
    if request.if_missing and database_is_there(target.path, empty_is_data=request.empty_is_data):
        raise TargetInUse(f"a database has appeared at {target.path}: it stays", "run it again")
    settled = target.checkpoint()
    with target.lease(stopped=request.stopped) as lease:
        record = _record(done, target, request)
        kept = swap(target.path, part, lease, context.clock(), record, request.takes_back)
    if kept is None:
        return done
    old = settled or CheckpointResult("")
    undo = way_back(request)
    return replace(done, kept=str(kept), old_damage=old.damage, old_undecided=old.journal_problem, undo=undo)


def _record(done: InPlaceResult, target: Target, request: RestoreRequest) -> RestoreRecord | None:
    """Return what is recorded of a restore in place; nothing where there was nothing before, not even a restore."""
    if target.old is not None:
        return RestoreRecord(kind_of(request), generation_of(request, done.generation), "file")
    if request.takes_back is None and recorded_names(target.path):
        return RestoreRecord("restore", done.generation, "nothing")
    return None


def kind_of(request: RestoreRequest) -> Kind:
    """Tell whether a restore takes one back, or takes an undo back."""
    if request.takes_back is None:
        return "restore"
    return "redo" if request.takes_back.record.kind == "undo" else "undo"


def generation_of(request: RestoreRequest, generation: str | None) -> str | None:
    """Return the generation that a restore is about: an undo is about that of the restore that it takes back."""
    return request.takes_back.record.generation if request.takes_back else generation


def way_back(request: RestoreRequest) -> str:
    """Return the command that takes a restore back."""
    return f"backupd restore --{'redo' if kind_of(request) == 'undo' else 'undo'} --source {request.source}"


def planned(manifest: Manifest, request: RestoreRequest, target: Target, undo: str | None = None) -> InPlaceResult:
    """Return what restoring `manifest` to `target` comes to, as far as it can be told before."""
    origin = target.old or manifest.origin
    return InPlaceResult(
        source=request.source,
        generation=manifest.id,
        taken_at=manifest.taken_at,
        target=str(target.path),
        snapshot_bytes=manifest.snapshot.size_bytes,
        snapshot_sha256=manifest.snapshot.sha256,
        owner=owner_text(origin.uid, origin.gid),
        mode=f"{origin.mode & 0o777:04o}",
        dry_run=request.dry_run,
        undo=undo,
        directory=str(request.directory) if request.directory else None,
        takes_back=TakenBack.of(request.takes_back) if request.takes_back else None,
        level=manifest.verdict.level,
    )


def tell_restored(what: str, done: InPlaceResult, context: TaskContext) -> None:
    """Log a restore, with what is needed to take it back."""
    kept = f"; the old database is {done.kept}" if done.kept else ""
    journal_problem = f", kept with its journal: {done.old_undecided}" if done.old_undecided else ""
    context.log.info(
        Event.GENERATION_RESTORED,
        f"{what}{kept}{journal_problem}",
        generation=done.generation,
        target=done.target,
        snapshot_sha256=done.snapshot_sha256,
        kept=done.kept,
        undo=done.undo,
    )
