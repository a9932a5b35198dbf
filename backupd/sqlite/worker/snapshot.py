"""Copy one live database with SQLite's online backup API, doing it no harm.

Run as `python -m backupd.sqlite.worker.snapshot` in an empty staging directory. The owner of the source, who this
process becomes, has no right to anything there: what is to be written is opened before.
"""

import os
import time
from typing import Any, NamedTuple

import apsw

from backupd.errors import (
    NoSpace,
    SnapshotFailed,
    SourceCorrupt,
    SourceForeign,
    SourceReplaced,
    SourceUnreadable,
    SourceUnusable,
)
from backupd.sqlite.file_format import (
    EMPTY_HEADER,
    HEADER_BYTES,
    NEWEST_READ_VERSION,
    Header,
    encrypted_header,
    has_checksums,
    parse_header,
    set_checksums,
)
from backupd.sqlite.worker.connection import source_error
from backupd.sqlite.worker.encrypted import copy_encrypted
from backupd.sqlite.worker.hot_journal import copy_with_journal, require_usable_journal
from backupd.sqlite.worker.locks import refuse_foreign_locks
from backupd.sqlite.worker.protocol import ParentPipe, serve
from backupd.sqlite.worker.snapshot_strategies import Copier, HotJournal
from backupd.system.fs import is_disk_full
from backupd.system.mounts import filesystem_of, is_remote
from backupd.system.owners import NAMESPACE_HINT, become_owner

_OR_AS_ROOT = ", or as root with the capabilities SETUID and SETGID"


def work(request: dict[str, Any], parent: ParentPipe) -> dict[str, Any]:
    """Copy the source, or only open and pin it for a probe; the answer says what the caller cannot see itself."""
    path: str = request["path"]
    staged = None if request["probe"] else StagedFiles.open(request)
    owner = become_owner(request["uid"], request["gid"])
    before = identity(path)
    header = check_source(request, owner=owner)
    copier = Copier(request, parent, header, staged.target if staged else None)
    hot = False
    if header.encrypted:
        header = copy_encrypted_source(copier, header, staged)
    else:
        hot = copy_plain_source(copier)
        if staged is not None:
            staged.target.close()
            if hot:
                copy_with_journal(path, staged.database, staged.journal, copier.advance)
            elif header.checksums:  # the backup API has written counters of its own into the first page
                set_checksums(staged.database, first_only=True)
    if identity(path) != before:
        raise SourceReplaced(f"{path} was replaced while it was copied", "run the backup again")
    return {
        "hot": hot,
        "encrypted": header.encrypted,
        "page_size": header.page_size,
        "journal_mode": header.journal_mode,
        "writer": header.writer,
        "copier": apsw.sqlite_lib_version(),
        "filesystem": filesystem_of(path),
        "writers_held_s": copier.writers_held_s,
    }


class StagedFiles(NamedTuple):
    """The copy that is to be made: open as a database, and as two descriptors for a copy with its hot journal."""

    target: apsw.Connection
    database: int
    journal: int

    @classmethod
    def open(cls, request: dict[str, Any]) -> "StagedFiles":
        """Make both files and open them while we still may.

        SQLite's journal for the copy is in memory, where it stays empty, since there is nothing to go back to but an
        empty file; without any, an attempt that was given up would leave half a database for the next one to stumble
        over.
        """
        database, journal = (
            os.open(request[name], os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600) for name in ("target", "journal")
        )
        target = apsw.Connection(request["target"])
        for pragma in ("locking_mode=EXCLUSIVE", "synchronous=OFF", "journal_mode=MEMORY"):
            target.execute(f"PRAGMA {pragma}").fetchall()  # apsw stops at the first row until it is fetched
        return cls(target, database, journal)


def check_source(request: dict[str, Any], *, owner: bool) -> Header:
    """Refuse what cannot be copied safely, before it is opened. Raises SourceUnusable, OSError."""
    path: str = request["path"]
    header = header_of(request)
    kind = filesystem_of(path)
    wal = header.journal_mode == "wal" or (header.encrypted and os.path.exists(f"{path}-shm"))
    if wal and is_remote(kind) and request["network_fs"] == "refuse":
        raise SourceUnusable(
            f"{path} is a WAL database on {kind}, where its shared memory may not reach this process",
            "keep the database in a named volume of the container engine; or run backupd on the host of the app, with "
            'network_fs = "allow" if both run on one kernel',
        )
    refuse_foreign_locks(path, header.journal_mode, request["busy_timeout_s"])
    if header.journal_mode != "wal" or header.encrypted:
        return header
    if os.path.exists(f"{path}-wal") and os.path.exists(f"{path}-shm"):
        return header
    if request["unmapped"]:
        raise SourceUnusable(
            f"{path} is an idle WAL database of a {request['unmapped']} that is not mapped in this user namespace: "
            "opening it would leave -wal and -shm files that its app cannot write",
            f"{NAMESPACE_HINT}; or back up while the app has it open",
        )
    if not owner:
        raise SourceUnusable(
            f"{path} is an idle WAL database of uid {request['uid']}: opening it as uid {os.geteuid()} would leave "
            "-wal and -shm files that its app cannot write",
            f"run backupd as uid {request['uid']} (PUID), or while the app has it open{_OR_AS_ROOT}",
        )
    return header


def header_of(request: dict[str, Any]) -> Header:
    """Read the header of the source, and what can be known of an encrypted one.

    Raises SourceUnusable, SourceUnreadable for what is not SQLite, SourceReplaced when it is gone.
    """
    path: str = request["path"]
    try:
        return EMPTY_HEADER if request["empty"] else read_source_header(path)
    except PermissionError as error:
        raise SourceUnusable(
            f"no right to read {path}",
            NAMESPACE_HINT
            if request["unmapped"]
            else f"run backupd as the owner of the file (uid {request['uid']}){_OR_AS_ROOT}",
        ) from error
    except FileNotFoundError as error:
        raise SourceReplaced(f"{path} went away just now", "run the backup again") from error


def read_source_header(path: str) -> Header:
    """Return the header of a plain or an encrypted database; refuse all other files.

    Raises OSError, SourceForeign, SourceCorrupt, SourceUnreadable.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        header = encrypted_header(descriptor) or parse_header(os.pread(descriptor, HEADER_BYTES, 0))
        if header is not None and not header.encrypted:
            header = header._replace(checksums=has_checksums(descriptor))
    finally:
        os.close(descriptor)
    if header is None:
        raise SourceUnreadable(
            f"{path} is not a SQLite database, and does not look like an encrypted one",
            "check the path; if it was a database before, its beginning is damaged",
        )
    if not header.valid:
        raise SourceCorrupt(
            f"{path} is damaged: its header holds what no SQLite writes",
            "restore the last good generation (backupd list), or try sqlite3 .recover",
        )
    if header.read_version > NEWEST_READ_VERSION:
        raise SourceForeign(
            f"{path} is not readable by SQLite {apsw.sqlite_lib_version()}: version {header.read_version} of the file "
            "format was made by another engine, or by a branch of SQLite",
            "let its engine write it in a journal mode of SQLite (WAL or DELETE), or back it up with its own tools",
        )
    return header


def copy_encrypted_source(copier: Copier, header: Header, staged: StagedFiles | None) -> Header:
    """Copy an encrypted database byte for byte, and return its header with the journal mode that was seen."""
    if staged is None:
        return header
    staged.target.close()
    try:
        done = copy_encrypted(copier.path, staged.database, copier.advance, copier.deadline.wait_for_lock)
    except FileNotFoundError as error:
        raise SourceReplaced(f"{copier.path} went away while it was copied", "run the backup again") from error
    except OSError as error:
        kind = NoSpace if is_disk_full(error) else SnapshotFailed
        raise kind(f"{copier.path} could not be copied: {error}", "check space and rights") from error
    copier.writers_held_s = 0.0 if done.wal else done.held_s
    return header._replace(journal_mode="wal") if done.wal else header


def copy_plain_source(copier: Copier) -> bool:
    """Copy; True when a hot journal has to be copied as it lies there. Raises the errors of `source_error`."""
    began = time.monotonic()
    try:
        try:
            copier.copy()
        except HotJournal:
            if copier.wait_for_rollback():
                return False
            require_usable_journal(copier.path)
            return require_hot_journal_copy(copier)
    except apsw.Error as error:
        raise source_error(error, copier.path, time.monotonic() - began) from error
    except FileNotFoundError as error:
        raise SourceReplaced(f"{copier.path} went away while it was copied", "run the backup again") from error
    return False


def require_hot_journal_copy(copier: Copier) -> bool:
    """Nobody rolls the journal back: True if we may copy both files. Raises SourceUnusable if not."""
    if copier.request["hot_journal"] == "copy":
        return True
    raise SourceUnusable(
        f"{copier.path} has a hot journal: its app died in a transaction and was not started again",
        'start the app, which rolls it back; or set hot_journal = "copy"',
    )


def identity(path: str) -> tuple[int, int] | None:
    """Return device and inode of `path`, None when it is gone."""
    try:
        state = os.stat(path)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise SourceUnusable(
            f"uid {os.geteuid()}, which owns it, cannot reach {path}", "let it pass through every directory on the way"
        ) from error
    return state.st_dev, state.st_ino


if __name__ == "__main__":
    serve(work)
