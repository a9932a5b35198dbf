"""Write a copy into a live database, in one transaction of the online backup API.

Run as `python -m backupd.sqlite.worker.restore_online` in the directory of the copy. This process becomes the owner of
the database, which may not read that directory: so the copy is opened first. The app sees the old content or the new
one, in the same file.
"""

import os
import time
from contextlib import closing

import apsw

from backupd.errors import BackupdError, RestoreFailed, SourceBusy, SourceUnusable, TargetInUse, TargetRefused
from backupd.sqlite.file_format import read_header
from backupd.sqlite.worker.connection import open_database, open_immutable, result_code, target_error
from backupd.sqlite.worker.hot_journal import detach_super_journal, undecided_message
from backupd.sqlite.worker.integrity_levels import check_integrity
from backupd.sqlite.worker.locks import hold_shared_lock, refuse_foreign_locks
from backupd.sqlite.worker.protocol import OnlineRestoreRequest
from backupd.system.owners import become_owner
from backupd.system.worker import ParentPipe, serve

_PAGES_A_STEP = 1000
_POLL_S = 0.002
_CHECK_BUSY_TIMEOUT_S = 10.0


def restore_online(request: OnlineRestoreRequest, parent: ParentPipe) -> None:
    """Overwrite the database by the copy and check it. Raises TargetInUse, TargetRefused, NoSpace, RestoreFailed."""
    path = request["path"]
    copy = open_immutable(request["snapshot"], request["held"])
    become_owner(request["uid"], request["gid"])
    refuse_journal_and_locks(path, request["busy_timeout_s"])
    try:
        overwrite(path, copy, request["busy_timeout_s"], parent)
        damage = check_integrity(_open_restored, path, apsw.sqlite_lib_version()).damage
    except apsw.Error as error:
        raise _explain(error, path, request["busy_timeout_s"]) from error
    if damage:
        raise RestoreFailed(f"{path} was restored and is damaged: {damage[0]}", "stop the app, and restore in place")


def refuse_journal_and_locks(path: str, busy_timeout_s: float) -> None:
    """Refuse a database whose app does not use SQLite's locks, or with a hot journal of unknown outcome.

    The lock lasts until SQLite has its own: the descriptor is never closed. Raises TargetRefused, TargetInUse.
    """
    header = read_header(path)
    try:
        refuse_foreign_locks(path, header.journal_mode if header else "rollback", busy_timeout_s)
    except SourceUnusable as error:
        raise TargetRefused(error.message, error.hint) from error
    _hold_shared_lock(path, busy_timeout_s)
    record = detach_super_journal(path, path)
    if record is not None:
        raise TargetRefused(
            undecided_message(record, path),
            "start the app, which commits or rolls back that transaction; or stop the app, and restore without "
            "--online, which keeps that journal",
        )


def _hold_shared_lock(path: str, busy_timeout_s: float) -> None:
    descriptor, deadline = os.open(path, os.O_RDONLY | os.O_CLOEXEC), time.monotonic() + busy_timeout_s
    while True:
        try:
            return hold_shared_lock(descriptor, path)
        except SourceBusy as error:
            if time.monotonic() > deadline:
                raise _locked(path, busy_timeout_s) from error
        time.sleep(_POLL_S)


def overwrite(path: str, copy: apsw.Connection, busy_timeout_s: float, parent: ParentPipe) -> None:
    """Copy every page in one transaction, which begins as soon as no other process writes. Raises apsw.Error."""
    with closing(_open(path, apsw.SQLITE_OPEN_READWRITE, busy_timeout_s)) as target:
        _refuse_other_format(path, target, copy)
        page_size = int(_pragma(copy, "page_size"))
        with target.backup("main", copy, "main") as backup:
            _step(backup, page_size, time.monotonic() + busy_timeout_s, parent)


def _refuse_other_format(path: str, target: apsw.Connection, copy: apsw.Connection) -> None:
    """Refuse a change of format that an app with the database open could not handle. Raises TargetRefused."""
    differing = ""
    if _pragma(target, "journal_mode") == "wal" and _pragma(target, "page_size") != _pragma(copy, "page_size"):
        differing = (
            f"has pages of {_pragma(target, 'page_size')} bytes, the generation of {_pragma(copy, 'page_size')}: "
            "SQLite cannot change that in a live WAL database"
        )
    elif _pragma(target, "encoding") != _pragma(copy, "encoding") and _pragma(target, "page_count") != "0":
        differing = (
            f"holds text in {_pragma(target, 'encoding')}, the generation in {_pragma(copy, 'encoding')}: "
            "every statement of an app that has it open would fail after that"
        )
    if differing:
        raise TargetRefused(f"{path} {differing}", "stop the app, and restore without --online")


def _step(backup: apsw.Backup, page_size: int, deadline: float, parent: ParentPipe) -> None:
    while True:
        try:
            if backup.step(_PAGES_A_STEP):
                return
        except (apsw.BusyError, apsw.LockedError):
            if time.monotonic() > deadline:
                raise
            continue
        done = backup.page_count - backup.remaining
        parent.progress(done * page_size, backup.page_count * page_size)


def _open_restored(path: str) -> apsw.Connection:
    return _open(path, apsw.SQLITE_OPEN_READONLY, _CHECK_BUSY_TIMEOUT_S)


def _open(path: str, flags: int, busy_timeout_s: float) -> apsw.Connection:
    connection = open_database(path, flags)
    connection.set_busy_timeout(int(busy_timeout_s * 1000))
    return connection


def _pragma(connection: apsw.Connection, pragma: str) -> str:
    return str(connection.execute(f"PRAGMA {pragma}").get)


def _locked(path: str, waited_s: float) -> TargetInUse:
    return TargetInUse(
        f"{path} stayed locked for {waited_s:.0f} s", "try again when the app writes less, or stop the app"
    )


def _explain(error: apsw.Error, path: str, waited_s: float) -> BackupdError:
    match result_code(error) & 0xFF:
        case apsw.SQLITE_CORRUPT if "malformed database schema" in str(error):
            return TargetRefused(
                f"SQLite {apsw.sqlite_lib_version()} cannot read the schema of {path}, or of the generation: {error}",
                "stop the app, and restore without --online",
            )
        case apsw.SQLITE_NOTADB | apsw.SQLITE_CORRUPT:
            return TargetRefused(f"{path} is damaged: {error}", "stop the app, and restore without --online")
    no_space = f"no space to write into {path}: it is unchanged"
    return target_error(error, path, _locked(path, waited_s), no_space, "could not be overwritten")


if __name__ == "__main__":
    serve(restore_online)
