"""Bring a database that is to be replaced to rest: all that its app was promised is in the one file, or we say why not.

Run as `python -m backupd.sqlite.worker.checkpoint`. This is the one place that opens an app's database to write: as
its app would when it starts, SQLite rolls a hot journal back or takes the WAL in, under a lock that nobody else may
share. A journal of a transaction over several databases is left alone where it cannot be judged (see `superjournal`).
"""

import os
from errno import EIO
from typing import Any
from urllib.parse import quote

import apsw

from backupd.errors import BackupdError, NoSpace, RestoreFailed, SourceBusy, TargetInUse, TargetRefused
from backupd.sqlite.file_format import Header, is_encrypted, read_header
from backupd.sqlite.worker.connection import result_code
from backupd.sqlite.worker.hot_journal import detach_super_journal, read_super_journal, undecided_message
from backupd.sqlite.worker.locks import hold_shared_lock
from backupd.sqlite.worker.protocol import ParentPipe, serve
from backupd.system.owners import become_owner

# A disk that cannot read it, or write to it, is what a restore is for: what lies there is kept as it lies.
_DAMAGED = (apsw.SQLITE_NOTADB, apsw.SQLITE_CORRUPT, apsw.SQLITE_IOERR)


def work(request: dict[str, Any], _parent: ParentPipe) -> dict[str, Any]:
    """Settle the database at `path`, and tell its damage in words (or nothing), or why its journal is undecided.

    `name` is what its app calls the file. An encrypted one is left as it is, with its side files, which belong to it
    alone. Raises TargetInUse when anybody is at work on it, NoSpace, TargetRefused, RestoreFailed.
    """
    path: str = request["path"]
    become_owner(request["uid"], request["gid"])
    damage, journal_problem = "it is no database: nothing in it can be read", ""
    try:
        header = header_of(path)
        if is_encrypted(path):
            damage = ""
        elif header is not None:  # else SQLite would take a WAL that lies there for one of nobody, and remove it
            journal_problem = judge_journal(path, request["name"])
            damage = "" if journal_problem else settle_or_tell(path)
    except OSError as error:
        if error.errno != EIO:
            raise
        damage = "the disk cannot read it"
    return {"damage": damage, "journal_problem": journal_problem}


def header_of(path: str) -> Header | None:
    """Read the header of the database. Raises TargetRefused."""
    try:
        return read_header(path)
    except PermissionError as error:
        raise TargetRefused(
            f"uid {os.geteuid()} cannot read {path}",
            "let the owner of the file pass through every directory on the way; or run backupd as that user (PUID)",
        ) from error


def judge_journal(path: str, name: str) -> str:
    """Say why the hot journal of the database must not be played back by guess; nothing where that is no guess.

    The lock lasts until SQLite has taken its own: the descriptor is never closed. Raises TargetInUse, OSError.
    """
    if read_super_journal(f"{path}-journal") is None:
        return ""
    try:
        hold_shared_lock(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)
    except SourceBusy as error:
        raise TargetInUse(f"{path} is in use: another process holds a lock on it") from error
    record = detach_super_journal(path, os.path.join(os.path.dirname(path), name))
    return "" if record is None else undecided_message(record, path)


def settle_or_tell(path: str) -> str:
    """Settle the database, or tell how it is damaged. Raises as `work` does."""
    try:
        settle(path)
    except apsw.Error as error:
        if result_code(error) & 0xFF not in _DAMAGED:
            raise _explain(error, path) from error
        return str(error)
    return ""


def settle(path: str) -> None:
    """Take everything into the one file, as its only user, be its schema newer than our SQLite. Raises apsw.Error."""
    connection = apsw.Connection(
        f"file:{quote(os.fsencode(path))}?mode=rw", flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
    )
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()  # in WAL also: no shared memory, no other user
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("PRAGMA user_version").fetchall()
        connection.execute("COMMIT")
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)  # nothing, where there is no WAL
    finally:
        connection.close()


def _explain(error: apsw.Error, path: str) -> BackupdError:
    code = result_code(error)
    match code & 0xFF:
        case apsw.SQLITE_BUSY | apsw.SQLITE_LOCKED:
            return TargetInUse(f"{path} is in use: another process holds a lock on it")
        case apsw.SQLITE_FULL:
            return NoSpace(f"no room to take the WAL of {path} into it", "free space there")
        case apsw.SQLITE_READONLY | apsw.SQLITE_CANTOPEN | apsw.SQLITE_PERM:
            return TargetRefused(
                f"{path} cannot be opened to write as uid {os.geteuid()}: {error}",
                "run backupd as the owner of the file (PUID), with its volume mounted writable",
            )
    return RestoreFailed(f"{path} cannot be brought to rest: {error} (SQLite code {code})", "see the system's log")


if __name__ == "__main__":
    serve(work)
