"""What a restore finds at its target: a killed restore, which it finishes or undoes, and a database."""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from backupd.errors import RestoreFailed, TargetInUse, TargetRefused
from backupd.files.restoration import RUNNING, restorations
from backupd.sqlite.database_files import DatabasePlace, side_files
from backupd.sqlite.history import (
    finish_online_restore,
    is_part_file,
    pending_online_restore,
    point_journal_name,
    took_effect,
)
from backupd.sqlite.source import real_path
from backupd.sqlite.swap import pending_swap, recover_swap, sweep_parts
from backupd.sqlite.target import restore_lock, restore_locks
from backupd.system.file_lock import directory_lock
from backupd.system.owners import ownership_hint
from backupd.tasks.context import TaskContext
from backupd.tasks.events import RestoreRecovered
from backupd.tasks.restore.files_left import opened_set, running, turn_back
from backupd.tasks.restore.point_journal import FILES_JOURNAL, FILES_JOURNAL_PART
from backupd.tasks.restore.point_recovery import recover_point

_EMPTY_BYTES: Final = 1  # SQLite also takes a file of one byte for a new database


def recover_restore(path: Path, context: TaskContext, *, held: Iterable[Path] = (), stopped: bool = False) -> None:
    """Finish or undo a killed restore of the database that `path` leads to, and log it.

    One of several targets is finished or undone at all of them. Call it under `restore_lock`, which a running restore
    holds, and which this process may hold on the directories `held` as well. Raises TargetRefused; LockHeld and
    TargetInUse where another target is in use; OSError.
    """
    target = real_path(path)
    with _permission_errors(target):
        recover_point("database", target, context, held=(*held, target.parent), stopped=stopped)
        with _opened(target) as place:
            recovered = recover_swap(place) if place else None
            begun = pending_online_restore(place) if place else None
            took = place is not None and begun is not None and took_effect(place, begun)
            if place is not None and begun is not None:
                finish_online_restore(place, begun, done=took)
    if recovered is not None:
        detail = f"; {recovered.detail}" if recovered.detail else ""
        what = f"a restore of {target} was killed: {recovered.what}{detail}"
        context.emit(RestoreRecovered(what, target))
    if begun is not None:
        effect = "it had taken effect" if took else "it had changed nothing"
        what = f"an online restore of {begun.record.generation} to {target} was killed: {effect}"
        context.emit(RestoreRecovered(what, target))


@contextmanager
def _permission_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise TargetRefused(
            f"uid {os.geteuid()} may not write to {target.parent}: {error.strerror}",
            ownership_hint(
                target.parent, "run backupd as its owner (PUID), or as root with the capability DAC_OVERRIDE"
            ),
        ) from error


def restore_pending(place: DatabasePlace) -> bool:
    """Return whether a restore was killed here, or is running. Raises TargetRefused, PermissionError."""
    return (
        pending_swap(place) is not None
        or pending_online_restore(place) is not None
        or place.directory.stat(point_journal_name(place.name)) is not None
    )


def restore_left(path: Path) -> bool:
    """Return whether a restore of the database that `path` leads to was killed, or is running. Raises TargetRefused."""
    with _opened(real_path(path)) as place:
        return place is not None and restore_pending(place)


def recover_before_backup(path: Path, context: TaskContext) -> str:
    """Recover a killed restore before a backup; returns the problem where that fails, and the backup goes on.

    What one has only unpacked beside the database is removed, unless a restore is running. Raises LockHeld while
    another restore puts a database in place.
    """
    try:
        if restore_left(path):
            with restore_lock(path):
                recover_restore(path, context)
        _sweep_unpacked(path)
    except (TargetRefused, TargetInUse) as error:
        return f"{error.message}: {error.hint}"
    except PermissionError:  # the backup fails for the same reason, and reports it
        return ""
    except OSError as error:
        return f"a killed restore of {path} could not be recovered: {error}"
    return ""


def _sweep_unpacked(path: Path) -> None:
    target = real_path(path)
    with suppress(OSError), _opened(target) as place:
        if place is None or not any(is_part_file(name, place.name) for name in place.names()):
            return
        with directory_lock(target.parent, timeout_s=0) as is_held:  # an OSError where there are no locks (NFS)
            if is_held:
                sweep_parts(place)


def recover_files(path: Path, context: TaskContext, *, held: Iterable[Path] = (), stopped: bool = False) -> None:
    """Finish or undo a killed restore of the set of files at `path`, and log it.

    One of several targets is finished or undone at all of them. Call it under the lock of the directory; this process
    may hold that of the directories `held` as well. Raises TargetRefused; LockHeld and TargetInUse where another target
    is in use; OSError.
    """
    target = real_path(path)
    recover_point("files", target, context, held=(*held, target), stopped=stopped)
    with suppress(FileNotFoundError), opened_set(target) as root:
        root.unlink(FILES_JOURNAL_PART)
        for restoration in running(root):
            state = restoration.state()
            if state is not None and (state.phase == "moving" or (state.phase == "reached" and not state.turned_back)):
                restoration.move()
                told = f"finished; what it replaced is in {restoration.keep()}"
            else:
                told = turn_back(restoration) or "undone: nothing has changed"
            context.emit(RestoreRecovered(f"a restore of the files in {target} was killed: {told}", target))


def recover_files_before_backup(path: Path, context: TaskContext) -> str:
    """Recover a killed restore of a set of files; returns the problem where that fails, and the backup goes on.

    Raises LockHeld while another restore puts files in place.
    """
    try:
        with opened_set(path) as root:
            pending = bool(restorations(root, RUNNING)) or root.stat(FILES_JOURNAL) is not None
        if pending:
            with restore_locks([real_path(path)]):
                recover_files(path, context)
    except (TargetRefused, TargetInUse, RestoreFailed) as error:
        return f"{error.message}: {error.hint}"
    except (FileNotFoundError, PermissionError):  # the backup fails for the same reason, and reports it
        return ""
    except OSError as error:
        return f"a killed restore of {path} could not be recovered: {error}"
    return ""


def database_exists(path: Path, *, empty_is_data: bool) -> bool:
    """Return whether there is a database at `path`, for a restore at the start of a container: links are followed.

    An empty file is one only where `empty_is_data`. After a killed restore there is none until it is recovered. Raises
    TargetRefused where side files without a database may hold data, or `path` is not a regular file; OSError.
    """
    target = real_path(path)
    with _opened(target) as place:
        if place is not None and restore_pending(place):
            return False
    try:
        state = target.stat()
    except FileNotFoundError:
        return _refuse_side_files(target)
    if not stat.S_ISREG(state.st_mode):
        raise TargetRefused(f"{target} is not a regular file", "give the path of the database file itself")
    return state.st_size > _EMPTY_BYTES or empty_is_data or _refuse_side_files(target)


def _refuse_side_files(target: Path) -> bool:
    """Return False where the side files of a missing or empty database hold no data. Raises TargetRefused."""
    for path in filled_side_files(target):
        raise TargetRefused(
            f"{path} lies beside a database that is missing or empty: it may hold its data",
            f"look for {target.name} and put it back; or replace both: backupd restore keeps that file",
        )
    return False


def filled_side_files(target: Path) -> list[Path]:
    """Return the side files of a database that may hold data of it. Raises OSError."""
    kinds = (path for path in side_files(target) if not path.name.endswith("-shm"))
    return [path for path in kinds if os.path.lexists(path) and path.lstat().st_size > 0]


@contextmanager
def _opened(target: Path) -> Iterator[DatabasePlace | None]:
    """Open where the database is, for the block; None where its directory does not exist."""
    with ExitStack() as stack:
        place = None
        with suppress(FileNotFoundError):
            place = stack.enter_context(DatabasePlace.open(target))
        yield place
