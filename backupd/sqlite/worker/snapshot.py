"""Copy a live database with SQLite's online backup API, without changing it.

Run as `python -m backupd.sqlite.worker.snapshot` in a staging directory. This process becomes the owner of the source,
which has no access to that directory: so the files to be written are open, and SQLite opens the copy first.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import apsw

from backupd.errors import (
    SourceCorrupt,
    SourceForeign,
    SourceReplaced,
    SourceUnreadable,
    SourceUnusable,
)
from backupd.sqlite.database_files import SIDE_SUFFIXES
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
from backupd.sqlite.worker.connection import open_held, source_error
from backupd.sqlite.worker.encrypted import copy_encrypted
from backupd.sqlite.worker.hot_journal import copy_failed, copy_with_journal, require_usable_journal
from backupd.sqlite.worker.locks import refuse_foreign_locks
from backupd.sqlite.worker.protocol import SnapshotReply, SnapshotRequest, SnapshotSettings, now_ns
from backupd.sqlite.worker.snapshot_strategies import Copier, HotJournal
from backupd.sqlite.worker.source_file import RESTORE_HINT, Identity, opened_source, replaced, require_in_place
from backupd.system.mounts import filesystem_of, is_remote
from backupd.system.owners import NAMESPACE_HINT, become_owner
from backupd.system.small_file import UnexpectedFile, require_regular_file
from backupd.system.worker import ParentPipe, serve

_OR_AS_ROOT = ", or as root with the capabilities SETUID and SETGID"


def snapshot(request: SnapshotRequest, parent: ParentPipe) -> SnapshotReply:
    """Copy the source, or only open and pin it for a probe."""
    staged = StagedFile.open(request)
    owner = become_owner(request["uid"], request["gid"])
    with only_if_in_place(request["path"], (request["device"], request["inode"])):
        return copy_source(request, parent, staged, owner=owner)


@contextmanager
def only_if_in_place(path: str, identity: Identity) -> Iterator[None]:
    """Make sure that the source was the file at `path` before and after the block.

    Raises SourceReplaced, and SourceUnusable where the block meets a link, a pipe and so on.
    """
    require_in_place(path, identity)
    try:
        yield
    except UnexpectedFile as error:
        require_in_place(path, identity)
        if error.filename == path:  # a new file with the number of the old one
            raise replaced(path) from error
        raise SourceUnusable(
            f"{error.filename} is {error.strerror}: SQLite creates and reads only regular files of that name",
            "remove it while the app is stopped",
        ) from error
    require_in_place(path, identity)


def copy_source(
    request: SnapshotRequest, parent: ParentPipe, staged: "StagedFile | None", *, owner: bool
) -> SnapshotReply:
    """Copy the source by the means that it needs. Raises UnexpectedFile for a link, a pipe and so on."""
    header = check_source(request, owner=owner)
    copier = Copier(request, parent, header, staged.target if staged else None)
    hot = False
    if staged is not None:
        staged.prepare()
    if header.encrypted:
        header = copy_encrypted_source(copier, header, staged)
    else:
        hot = copy_plain_source(copier)
        if staged is not None and hot:
            copy_hot_source(copier, staged, request["journal"])
        elif staged is not None:
            finish_copy(staged, header)
    return reply_of(copier, header, hot=hot)


def copy_hot_source(copier: Copier, staged: "StagedFile", journal: int | None) -> None:
    """Copy the source with its hot journal, under a lock which keeps it as it is."""
    assert journal is not None  # noqa: S101 - for the type checker: only a pinned source has none, and no hot journal
    staged.target.close()
    began = now_ns()
    copy_with_journal(copier.path, copier.identity, staged.database, journal, copier.advance)
    copier.instant = (began, now_ns())


def reply_of(copier: Copier, header: Header, *, hot: bool) -> SnapshotReply:
    """Return what the parent has to know of a copy."""
    return SnapshotReply(
        hot=hot,
        encrypted=header.encrypted,
        page_size=header.page_size,
        journal_mode=header.journal_mode,
        writer=header.writer,
        copier=apsw.sqlite_lib_version(),
        filesystem=filesystem_of(copier.path),
        writers_held_s=copier.writers_held_s,
        instant=copier.instant,
    )


class StagedFile(NamedTuple):
    """The file of the copy: open as a database, and as a descriptor for what SQLite cannot write."""

    target: apsw.Connection
    database: int

    @classmethod
    def open(cls, request: SnapshotRequest) -> "StagedFile | None":
        """Open the empty file of the copy before this process becomes the owner of the source; None for a probe."""
        if request["held"] is None:
            return None
        return cls(open_held(request["target"], request["held"], apsw.SQLITE_OPEN_READWRITE), request["held"])

    def prepare(self) -> None:
        """Let SQLite write the copy without files beside it; only now does it allocate memory for it.

        Its journal is in memory, where it remains empty, since the file was empty before. Without a journal, an
        abandoned attempt would leave a partial database, on which the next attempt fails.
        """
        for pragma in ("locking_mode=EXCLUSIVE", "synchronous=OFF", "journal_mode=MEMORY"):
            self.target.execute(f"PRAGMA {pragma}").fetchall()  # apsw stops at the first row until it is fetched


def finish_copy(staged: StagedFile, header: Header) -> None:
    """Close the copy, and let SQLite's checksum of its first page be right, if there are any.

    The backup API has written counters of its own into that page.
    """
    staged.target.close()
    if header.checksums:
        set_checksums(staged.database, first_only=True)


def check_source(request: SnapshotRequest, *, owner: bool) -> Header:
    """Refuse a source that cannot be copied safely, before SQLite opens it. Raises SourceUnusable, OSError."""
    path, settings = request["path"], SnapshotSettings(**request["settings"])
    header = header_of(request)
    for suffix in SIDE_SUFFIXES:
        require_regular_file(f"{path}{suffix}")
    kind = filesystem_of(path)
    wal = header.journal_mode == "wal" or (header.encrypted and os.path.exists(f"{path}-shm"))
    if wal and is_remote(kind) and settings.network_fs == "refuse":
        raise SourceUnusable(
            f"{path} is a WAL database on {kind}, where its shared memory may not reach this process",
            "keep the database in a named volume of the container engine; or run backupd on the host of the app, with "
            'network_fs = "allow" if both run on one kernel',
        )
    refuse_foreign_locks(path, header.journal_mode, settings.busy_timeout_s)
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
            f"run backupd as uid {request['uid']} (PUID), or back up while the app has it open{_OR_AS_ROOT}",
        )
    return header


def header_of(request: SnapshotRequest) -> Header:
    """Return the header of the source, or the known part of an encrypted one.

    Raises SourceUnusable, SourceUnreadable if it is not SQLite, SourceReplaced if it was removed.
    """
    path = request["path"]
    try:
        return EMPTY_HEADER if request["empty"] else read_source_header(path, (request["device"], request["inode"]))
    except PermissionError as error:
        raise SourceUnusable(
            f"uid {os.geteuid()} may not read {path}",
            NAMESPACE_HINT
            if request["unmapped"]
            else f"run backupd as the owner of the file (uid {request['uid']}){_OR_AS_ROOT}",
        ) from error
    except FileNotFoundError as error:
        raise SourceReplaced(f"{path} was removed just now", "run the backup again") from error


def read_source_header(path: str, identity: Identity) -> Header:
    """Return the header of a plain or an encrypted database; refuse all other files.

    Raises OSError, SourceReplaced, SourceForeign, SourceCorrupt, SourceUnreadable.
    """
    with opened_source(path, identity) as descriptor:
        header = encrypted_header(descriptor) or parse_header(os.pread(descriptor, HEADER_BYTES, 0))
        if header is not None and not header.encrypted:
            header = header._replace(checksums=has_checksums(descriptor))
    if header is None:
        raise SourceUnreadable(
            f"{path} is not a SQLite database, and does not look like an encrypted one",
            "check the path; if it was a database before, its beginning is damaged",
        )
    if not header.valid:
        raise SourceCorrupt(
            f"{path} is damaged: its header has values that no SQLite writes",
            f"{RESTORE_HINT}, or try sqlite3 .recover",
        )
    if header.read_version > NEWEST_READ_VERSION:
        raise SourceForeign(
            f"{path} is not readable by SQLite {apsw.sqlite_lib_version()}: version {header.read_version} of the file "
            "format was made by another engine, or by a branch of SQLite",
            "set a journal mode of SQLite (WAL or DELETE) in its engine, or back it up with its own tools",
        )
    return header


def copy_encrypted_source(copier: Copier, header: Header, staged: StagedFile | None) -> Header:
    """Copy an encrypted database byte for byte, and return its header with the journal mode that was seen."""
    if staged is None:
        return header
    staged.target.close()
    try:
        done = copy_encrypted(copier.path, copier.identity, staged.database, copier.advance, copier.wait_for_lock)
    except FileNotFoundError as error:
        raise removed(copier.path) from error
    except OSError as error:
        raise copy_failed(copier.path, error) from error
    copier.instant = done.instant
    copier.writers_held_s = 0.0 if done.wal else done.held_s
    return header._replace(journal_mode="wal") if done.wal else header


def copy_plain_source(copier: Copier) -> bool:
    """Copy the source; True when it has to be copied with its hot journal, which no app has rolled back.

    Raises the errors of `source_error`, SourceUnusable.
    """
    with copy_errors(copier.path):
        try:
            copier.copy()
        except HotJournal:
            if copier.wait_for_rollback():
                return False
            require_usable_journal(copier.path, copier.identity)
            if copier.settings.hot_journal == "copy":
                return True
            raise SourceUnusable(
                f"{copier.path} has a hot journal: its app died in a transaction and has not been started since",
                'start the app, which rolls it back; or set hot_journal = "copy"',
            ) from None
    return False


@contextmanager
def copy_errors(path: str) -> Iterator[None]:
    """Raise what SQLite and the system raise in the block as errors for people, see `source_error`."""
    began = time.monotonic()
    try:
        yield
    except apsw.Error as error:
        raise source_error(error, path, time.monotonic() - began) from error
    except FileNotFoundError as error:
        raise removed(path) from error


def removed(path: str) -> SourceReplaced:
    """Return the error for a source that is no longer at `path`."""
    return SourceReplaced(f"{path} was removed while it was copied", "run the backup again")


if __name__ == "__main__":
    serve(snapshot)
