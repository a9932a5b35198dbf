"""Write one of our copies into a live database, in one transaction of the online backup API.

Run as `python -m backupd.sqlite.worker.restore_online` in the directory of the copy, which the owner of the database,
who this process becomes, may not read: so it is opened before. The app sees the old content or the new, in the same
file.
"""

import os
import time
from typing import Any
from urllib.parse import quote

import apsw

from backupd.errors import BackupdError, NoSpace, RestoreFailed, SourceBusy, SourceUnusable, TargetInUse, TargetRefused
from backupd.sqlite.file_format import read_header
from backupd.sqlite.worker.connection import result_code
from backupd.sqlite.worker.hot_journal import detach_super_journal, undecided_message
from backupd.sqlite.worker.integrity_check import open_immutable
from backupd.sqlite.worker.integrity_levels import check_integrity
from backupd.sqlite.worker.locks import hold_shared_lock, refuse_foreign_locks
from backupd.sqlite.worker.protocol import ParentPipe, serve
from backupd.system.owners import become_owner

_PAGES_A_STEP = 1000
_POLL_S = 0.002


def work(request: dict[str, Any], parent: ParentPipe) -> dict[str, Any]:
    """Overwrite the database at `path` by the copy `snapshot` and check it. Raises TargetInUse, NoSpace and others."""
    path: str = request["path"]
    copy = open_immutable(request["snapshot"])
    become_owner(request["uid"], request["gid"])
    refuse_journal_and_locks(path, request["busy_timeout_s"])
    try:
        overwrite(path, copy, request["busy_timeout_s"], parent)
        damage = check(path)
    except apsw.Error as error:
        raise _explain(error, path, request["busy_timeout_s"]) from error
    if damage:
        raise RestoreFailed(f"{path} was restored, and is damaged: {damage}", "stop the app, and restore in place")
    return {}


def refuse_journal_and_locks(path: str, busy_timeout_s: float) -> None:
    """Refuse a database whose app does not use SQLite's locks, or with a hot journal that cannot be judged.

    The lock lasts until SQLite has taken its own: the descriptor is never closed. Raises TargetRefused, TargetInUse.
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
            "start the app, which finishes that transaction or takes it back; or stop the app, and restore without "
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
    """Copy every page in one transaction, which begins as soon as nobody else writes. Raises apsw.Error."""
    target = _open(path, apsw.SQLITE_OPEN_READWRITE, busy_timeout_s)
    try:
        _refuse_other_form(path, target, copy)
        page_size = int(_ask(copy, "page_size"))
        with target.backup("main", copy, "main") as backup:
            _step(backup, page_size, time.monotonic() + busy_timeout_s, parent)
    finally:
        target.close()


def _refuse_other_form(path: str, target: apsw.Connection, copy: apsw.Connection) -> None:
    """Refuse a form that an app which has the database open could not follow. Raises TargetRefused."""
    differing = ""
    if _ask(target, "journal_mode") == "wal" and _ask(target, "page_size") != _ask(copy, "page_size"):
        differing = (
            f"has pages of {_ask(target, 'page_size')} bytes, the generation of {_ask(copy, 'page_size')}: "
            "SQLite cannot change that in a live WAL database"
        )
    elif _ask(target, "encoding") != _ask(copy, "encoding") and _ask(target, "page_count") != "0":
        differing = (
            f"holds text in {_ask(target, 'encoding')}, the generation in {_ask(copy, 'encoding')}: "
            "every statement of an app that has it open would fail from then on"
        )
    if differing:
        raise TargetRefused(f"{path} {differing}", "stop the app, and restore without --online")


def _step(backup: apsw.Backup, page_size: int, give_up: float, parent: ParentPipe) -> None:
    while True:
        try:
            if backup.step(_PAGES_A_STEP):
                return
        except (apsw.BusyError, apsw.LockedError):
            if time.monotonic() > give_up:
                raise
            continue
        done = backup.page_count - backup.remaining
        parent.progress(done * page_size, backup.page_count * page_size)


def check(path: str) -> str:
    """Return the first sign of damage, nothing when there is none. Raises apsw.Error."""
    result = check_integrity(
        lambda where: _open(where, apsw.SQLITE_OPEN_READONLY, 10.0), path, apsw.sqlite_lib_version()
    )
    return result.damage[0] if result.damage else ""


def _open(path: str, flags: int, busy_timeout_s: float) -> apsw.Connection:
    connection = apsw.Connection(f"file:{quote(os.fsencode(path))}", flags=flags | apsw.SQLITE_OPEN_URI)
    connection.set_busy_timeout(int(busy_timeout_s * 1000))
    return connection


def _ask(connection: apsw.Connection, pragma: str) -> str:
    return str(connection.execute(f"PRAGMA {pragma}").get)


def _locked(path: str, waited_s: float) -> TargetInUse:
    return TargetInUse(f"{path} stayed locked for {waited_s:.0f} s", "try again at a quieter moment, or stop the app")


def _explain(error: apsw.Error, path: str, waited_s: float) -> BackupdError:
    code = result_code(error)
    match code & 0xFF:
        case apsw.SQLITE_BUSY | apsw.SQLITE_LOCKED:
            return _locked(path, waited_s)
        case apsw.SQLITE_FULL:
            return NoSpace(f"no room to write into {path}: it is what it was", "free space there")
        case apsw.SQLITE_CORRUPT if "malformed database schema" in str(error):
            return TargetRefused(
                f"SQLite {apsw.sqlite_lib_version()} cannot read the schema of {path}, or of the generation: {error}",
                "stop the app, and restore without --online",
            )
        case apsw.SQLITE_NOTADB | apsw.SQLITE_CORRUPT:
            return TargetRefused(f"{path} is damaged: {error}", "stop the app, and restore without --online")
        case apsw.SQLITE_READONLY | apsw.SQLITE_CANTOPEN | apsw.SQLITE_PERM:
            return TargetRefused(
                f"{path} cannot be written as uid {os.geteuid()}: {error}",
                "run backupd as the owner of the file (PUID), with its volume mounted writable",
            )
    return RestoreFailed(f"{path} could not be overwritten: {error} (SQLite code {code})", "see the system's log")


if __name__ == "__main__":
    serve(work)
