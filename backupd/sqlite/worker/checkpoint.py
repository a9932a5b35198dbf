"""Take WAL or hot journal of a database that is to be replaced into its file, with all that its app has committed.

Run as `python -m backupd.sqlite.worker.checkpoint`. This is the one place that opens an app's database to write it
in place: like its app when it starts, SQLite rolls a hot journal back or checkpoints the WAL, under an exclusive lock.
A journal of a transaction over several databases is left alone if its outcome is unknown (see `hot_journal`).
"""

import os
from contextlib import closing
from errno import EIO

import apsw

from backupd.errors import SourceBusy, TargetInUse, TargetRefused
from backupd.sqlite.file_format import Header, is_encrypted, read_header
from backupd.sqlite.worker.connection import open_database, result_code, target_error
from backupd.sqlite.worker.hot_journal import detach_super_journal, read_super_journal, undecided_message
from backupd.sqlite.worker.locks import hold_shared_lock
from backupd.sqlite.worker.protocol import CheckpointRequest, CheckpointResult
from backupd.system.owners import become_owner
from backupd.system.worker import ParentPipe, serve

# A restore also replaces a database on a failing disk: what cannot be read or written is kept as it is.
_DAMAGED = (apsw.SQLITE_NOTADB, apsw.SQLITE_CORRUPT, apsw.SQLITE_IOERR)


def checkpoint(request: CheckpointRequest, _parent: ParentPipe) -> dict[str, str]:
    """Checkpoint the database, and return the fields of a CheckpointResult.

    An encrypted database is left alone, with its side files. Raises TargetInUse when another process uses it, NoSpace,
    TargetRefused, RestoreFailed.
    """
    path = request["path"]
    become_owner(request["uid"], request["gid"])
    damage, journal_problem = "it is not a database: nothing in it can be read", ""
    try:
        header = header_of(path)
        if is_encrypted(path):
            damage = ""
        elif header is not None:  # else SQLite would remove a WAL beside it
            journal_problem = prepare_journal(path, request["name"])
            damage = "" if journal_problem else checkpoint_or_damage(path)
    except OSError as error:
        if error.errno != EIO:
            raise
        damage = "the disk cannot read it"
    return CheckpointResult(damage, journal_problem)._asdict()


def header_of(path: str) -> Header | None:
    """Return the header of the database. Raises TargetRefused."""
    try:
        return read_header(path)
    except PermissionError as error:
        raise TargetRefused(
            f"uid {os.geteuid()} cannot read {path}",
            "give the owner of the file access (x) to every directory above it; or run backupd as that user (PUID)",
        ) from error


def prepare_journal(path: str, name: str) -> str:
    """Make the hot journal, if there is one, safe for SQLite to play back; else return why that is impossible.

    The lock lasts until SQLite has its own: the descriptor is never closed. Raises TargetInUse, OSError.
    """
    if read_super_journal(f"{path}-journal") is None:
        return ""
    try:
        hold_shared_lock(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)
    except SourceBusy as error:
        raise _in_use(path) from error
    record = detach_super_journal(path, os.path.join(os.path.dirname(path), name))
    return "" if record is None else undecided_message(record, path)


def checkpoint_or_damage(path: str) -> str:
    """Checkpoint the database, or return how it is damaged. Raises what `checkpoint` raises."""
    try:
        checkpoint_database(path)
    except apsw.Error as error:
        if result_code(error) & 0xFF not in _DAMAGED:
            no_space = f"no space to write the WAL of {path} into it"
            raise target_error(error, path, _in_use(path), no_space, "cannot be checkpointed") from error
        return str(error)
    return ""


def checkpoint_database(path: str) -> None:
    """Write everything into the one file, as its only user, also with a schema of a newer SQLite. Raises apsw.Error."""
    with closing(open_database(path, apsw.SQLITE_OPEN_READWRITE, "?mode=rw")) as connection:
        # In WAL mode too: no shared memory, no other process.
        connection.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("PRAGMA user_version").fetchall()
        connection.execute("COMMIT")
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)  # does nothing without a WAL


def _in_use(path: str) -> TargetInUse:
    return TargetInUse(f"{path} is in use: another process holds a lock on it")


if __name__ == "__main__":
    serve(checkpoint)
