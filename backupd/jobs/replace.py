"""Restore a generation in place of its app's database, so that nothing gets worse.

    lock, heal → refuse users → unpack beside it and prove → settle the old one → lease → swap → tell how to undo it

Until the swap nothing of the app is touched but what it would do itself when it starts; the old database stays.
"""

import os
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from backupd.errors import CopyCorrupt, GenerationMissing, TargetInUse
from backupd.files import fsync_directory, noting_limits
from backupd.jobs.checks import remember_check
from backupd.jobs.generations import Choose
from backupd.jobs.heal import heal_restore
from backupd.jobs.presence import database_is_there
from backupd.jobs.run import Run, recorded
from backupd.jobs.site import Site
from backupd.jobs.space import require_space
from backupd.jobs.unpacked import unpack_proven
from backupd.log import Event
from backupd.model import Manifest, RunReport
from backupd.owners import known_owner, owner_text
from backupd.sqlite.alone import alone_at
from backupd.sqlite.directory import Rights, warning_of
from backupd.sqlite.install import kept_databases, remove_part, side_files, swap, sweep_parts
from backupd.sqlite.intent import part_path
from backupd.sqlite.replace import Settled, Target, dress, set_journal_mode
from backupd.stores.contract import Archives


@dataclass(frozen=True, slots=True)
class Replaced:
    """What a restore in place did, or with `dry_run` would do.

    `kept` is the old database, None when there was none or it was overwritten; `old_damage` says in words how it was
    damaged, `old_undecided` why it was kept with its journal; `undo` is the command that takes the restore back;
    `notes` tell what the file system cannot do. `directory` is what an empty directory was given.
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


@dataclass(frozen=True, slots=True)
class Replacement:
    """What is to be put where: the database of `source` at `path`; `stopped` is the operator's word for the app.

    `directory` is what its directory, empty so far, is given (or in a dry run would be). With `if_missing` a database
    that is there stays, and a restore that is at work there is waited for; `empty_is_data` as for `database_is_there`.
    """

    source: str
    path: Path
    workers: int
    stopped: bool = False
    dry_run: bool = False
    directory: Rights | None = None
    if_missing: bool = False
    empty_is_data: bool = False


def replace_database(
    choose: Choose, order: Replacement, store: Archives, site: Site
) -> tuple[RunReport, Replaced | None]:
    """Restore a generation of `store` over the database of its source; the report tells of trouble.

    Which one, `choose` tells once nobody else is at work on the store: who was may have published and removed some.
    Refused while anybody has that database open. The old one is kept beside it as `….pre-restore-TIME`.
    """
    wait_s = site.lock_timeout_s if order.if_missing else 0.0
    if order.dry_run:
        manifest, run = choose(), Run("restore", order.source, site)
        planned_outcome = _rehearsed(manifest, order, run)
        return run.report, planned_outcome
    done = None
    with (
        recorded("restore", order.source, site) as run,
        site.locked_if_writable("restore"),
        alone_at(order.path, wait_s),
    ):
        run.started()
        heal_restore(order.path, site)
        if order.if_missing and database_is_there(order.path, empty_is_data=order.empty_is_data):
            run.note(f"a database has appeared at {order.path}: it stays")
            return run.report, None
        manifest = choose()
        run.update(generation=manifest.id, snapshot_bytes=manifest.snapshot.size_bytes)
        done = _replace(manifest, order, _target(manifest, order), store, run, site)
    return run.report, done and replace(done, notes=run.report.notes)


def undo_restore(order: Replacement, site: Site) -> tuple[RunReport, Replaced | None]:
    """Put the database that the last restore kept back in place; what is there now is kept in its turn."""
    if order.dry_run:
        way_back, target, _ = _undoing(order)
        with noting_limits() as limits:
            fsync_directory(target.path.parent)
        return Run("restore", order.source, site).report, replace(way_back, notes=tuple(limits))
    done = None
    with recorded("restore", order.source, site) as run, site.locked_if_writable("restore"), alone_at(order.path):
        run.started()
        heal_restore(order.path, site)
        way_back, target, kept = _undoing(order)
        settled = kept.settle()  # so that all of it comes back in the one rename, and not while somebody looks into it
        if settled and settled.undecided:
            way = "put back with its journal, which the app judges when it starts, rightly if it has not run since then"
            run.warn(f"{way}: {settled.undecided}")
        done = _swap(way_back, target, kept.path, order, site)
        tell_restored(f"put {kept.path.name} back in place of {target.path}", done, site)
    return run.report, done and replace(done, notes=run.report.notes)


def _rehearsed(manifest: Manifest, order: Replacement, run: Run) -> Replaced:
    """Return what the restore comes to, owner and mode as the file system lets a file of no name have them."""
    target = _target(manifest, order)
    _warn_of_directory(target, manifest, order, run)
    with noting_limits() as limits:
        owner, mode = target.rehearse(manifest.origin)
    return replace(planned(manifest, order, target), owner=owner, mode=mode, notes=tuple(limits))


def _target(manifest: Manifest, order: Replacement) -> Target:
    """Look at the place, before hours are spent on fetching. Raises TargetInUse, TargetRefused, NoSpace."""
    target = Target.inspect(order.path)
    with target.lease(stopped=order.stopped):
        pass
    needed = manifest.snapshot.size_bytes + target.bytes_in_use
    require_space(target.path.parent, needed, 0, f"restoring {manifest.id}")
    target.rehearse(manifest.origin)
    return target


def _undoing(order: Replacement) -> tuple[Replaced, Target, Target]:
    """Return what taking the last restore back comes to, where, and the database that it kept."""
    target = Target.inspect(order.path)
    kept = kept_databases(target.path)
    if not kept:
        raise GenerationMissing(
            f"no restore has kept an old database beside {target.path}",
            "there is nothing to take back; backupd list shows the generations that can be restored",
        )
    way_back = Target.kept(kept[-1])
    with way_back.lease(stopped=order.stopped):
        pass
    state = way_back.path.stat()
    done = Replaced(
        source=order.source,
        generation=None,
        taken_at=None,
        target=str(target.path),
        snapshot_bytes=state.st_size,
        snapshot_sha256=None,
        owner=owner_text(*known_owner(way_back.path, state)),
        mode=f"{state.st_mode & 0o7777:04o}",
        dry_run=order.dry_run,
    )
    return done, target, way_back


def _replace(manifest: Manifest, order: Replacement, target: Target, store: Archives, run: Run, site: Site) -> Replaced:
    part = part_path(target.path)
    sweep_parts(target.path)  # we are alone: none is at work
    try:
        with run.stage("unpack"):
            unpack_proven(manifest, store, part, order.workers, site)
        set_journal_mode(part, manifest.snapshot.journal_mode)
        owner, mode = dress(part, target, manifest.origin)
        done = replace(planned(manifest, order, target), owner=owner, mode=mode)
        with run.stage("swap"):
            done = _swap(done, target, part, order, site)
    except CopyCorrupt as error:
        remember_check(manifest.id, site, sound=False, detail=error.message, store=store.name)
        raise
    finally:
        remove_part(part)
    _warn_of_directory(target, manifest, order, run)
    tell_restored(f"restored {manifest.id} in place of {target.path}", done, site)
    return done


def _warn_of_directory(target: Target, manifest: Manifest, order: Replacement, run: Run) -> None:
    """Warn where the app could not write beside a database that was not there before."""
    if target.old is not None or os.geteuid() != 0:  # not root: the new database is ours, and we may write there
        return
    rights = order.directory or Rights.of(target.path.parent)
    if warning := warning_of(target.path.parent, rights, manifest.origin):
        run.warn(warning)


def _swap(done: Replaced, target: Target, part: Path, order: Replacement, site: Site) -> Replaced:
    """Bring the old database to rest, make sure that nobody has opened it since, and put `part` in its place."""
    target = Target.inspect(target.path)  # anew: an app that started meanwhile may have made one
    if order.if_missing and database_is_there(target.path, empty_is_data=order.empty_is_data):
        raise TargetInUse(f"a database has appeared at {target.path}: it stays", "run it again")
    settled = target.settle()
    with target.lease(stopped=order.stopped) as lease:
        kept = swap(target.path, part, lease, site.clock(), side_files(part))
    if kept is None:
        return done
    undo = f"backupd restore --undo --source {order.source}"
    old = settled or Settled("")
    return replace(done, kept=str(kept), old_damage=old.damage, old_undecided=old.undecided, undo=undo)


def planned(manifest: Manifest, order: Replacement, target: Target, undo: str | None = None) -> Replaced:
    """Return what restoring `manifest` to `target` comes to, as far as it can be told before."""
    origin = target.old or manifest.origin
    return Replaced(
        source=order.source,
        generation=manifest.id,
        taken_at=manifest.taken_at,
        target=str(target.path),
        snapshot_bytes=manifest.snapshot.size_bytes,
        snapshot_sha256=manifest.snapshot.sha256,
        owner=owner_text(origin.uid, origin.gid),
        mode=f"{origin.mode & 0o777:04o}",
        dry_run=order.dry_run,
        undo=undo,
        directory=str(order.directory) if order.directory else None,
    )


def tell_restored(what: str, done: Replaced, site: Site) -> None:
    """Log a restore, with what is needed to take it back."""
    kept = f"; the old database is {done.kept}" if done.kept else ""
    undecided = f", kept with its journal: {done.old_undecided}" if done.old_undecided else ""
    site.log.info(
        Event.GENERATION_RESTORED,
        f"{what}{kept}{undecided}",
        generation=done.generation,
        target=done.target,
        snapshot_sha256=done.snapshot_sha256,
        kept=done.kept,
        undo=done.undo,
    )
