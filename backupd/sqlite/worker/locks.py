"""SQLite's POSIX locks, without which no copy is consistent: take them, and refuse an app that does not use them.

Lock bytes: https://sqlite.org/src/file/src/os.h (PENDING_BYTE and following) and os_unix.c (UNIX_SHM_DMS). The
locks of other processes are queried only while this process has no connection to the database: closing a descriptor
drops all locks that this process holds on the file.
"""

import fcntl
import os
import signal
import stat
import struct
import time
from errno import EAGAIN

from backupd.errors import SourceBusy, SourceUnlocked, SourceUnusable
from backupd.sqlite.database_files import mount_directory_hint
from backupd.system.small_file import opened_file

PENDING = 0x40000000
SHARED_FIRST, SHARED_SIZE = PENDING + 2, 510
_ALL_BYTES = 512
_SHM_IN_USE = 128  # a shared lock there means that a process has this shared memory open
_FLOCK = "hhqqi4x"
_GRACE_S = 2.0  # opening or closing a database takes an app much less
_POLL_S = 0.05
_USE_UNIX = (
    'configure the app to use SQLite\'s own locks (the VFS "unix": no vfs=unix-dotfile, unix-none or nolock=1 in its '
    "database URL), or stop it during backups and restores"
)


def lock_on(descriptor: int, start: int, size: int) -> int:
    """Return the kind of lock (F_RDLCK, F_WRLCK) that another process holds on these bytes, F_UNLCK for none."""
    probe = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, size, 0)
    kind: int = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, probe))[0]
    return kind


def hold_shared_lock(descriptor: int, path: str) -> None:
    """Take SQLite's shared lock on the open database at `path`, until any descriptor of it is closed.

    An app that starts now can neither write nor roll a hot journal back. Raises SourceBusy when one already does.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, SHARED_SIZE, SHARED_FIRST)
    except (BlockingIOError, PermissionError) as error:  # EAGAIN or EACCES: fcntl(2)
        raise SourceBusy(f"{path} is being recovered by its app", "run the backup again") from error
    if lock_on(descriptor, PENDING, 2) != fcntl.F_UNLCK:
        raise SourceBusy(f"{path} is being written by its app", "run the backup again")


def refuse_foreign_locks(path: str, journal_mode: str, busy_timeout_s: float) -> None:
    """Refuse a database whose app uses other locks, or has its WAL beside another name of it.

    An app that is opening or closing it gets 2 s, or `busy_timeout_s` if that is less. Raises
    SourceUnlocked, SourceUnusable, OSError.
    """
    give_up = time.monotonic() + min(_GRACE_S, busy_timeout_s)
    while (refusal := _foreign_lock(path, journal_mode)) is not None:
        if time.monotonic() > give_up:
            raise refusal
        time.sleep(_POLL_S)


def refuse_lock_directory(path: str) -> None:
    """Refuse a database that is locked by a directory (the VFS unix-dotfile). Raises SourceUnlocked."""
    if _is_directory(f"{path}.lock"):
        raise _lock_directory(path)


def refuse_journal_in_use(database: int, path: str) -> None:
    """Refuse a journal that another process has open without a lock: its app is not dead.

    This process holds SQLite's shared lock on the descriptor `database`, so that no app that uses the locks can begin
    to write. Raises SourceUnlocked.
    """
    refuse_lock_directory(path)
    if lock_on(database, PENDING, 2) == fcntl.F_UNLCK and is_open(f"{path}-journal"):
        if lock_on(database, PENDING, 2) != fcntl.F_UNLCK:
            return
        raise SourceUnlocked(
            f"{path}-journal is in use by a process that holds no lock on {path}: the app is writing without SQLite's "
            "POSIX locks, and any copy could contain half a transaction",
            _USE_UNIX,
        )


def written_without_lock(path: str) -> SourceUnlocked:
    """Return the error for a database that changed while this process held a lock against writers."""
    return SourceUnlocked(
        f"{path} was written to while a shared lock was held on it: its app, or another process, does not use SQLite's "
        "POSIX locks",
        _USE_UNIX,
    )


def is_open(path: str) -> bool:
    """Return whether another process has the file at `path` open; False where the kernel cannot tell.

    A write lease is taken and released at once (fcntl(2), F_SETLEASE).
    """
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # sent when a process opens the file at that moment
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == EAGAIN
    finally:
        os.close(descriptor)
    return False


def _foreign_lock(path: str, journal_mode: str) -> SourceUnusable | None:
    held = _lock_on_file(path, PENDING, _ALL_BYTES)
    if held == fcntl.F_UNLCK and _is_directory(f"{path}.lock"):
        return _lock_directory(path)
    # An app that has a WAL database open holds a shared lock on it until it closes it.
    if (
        journal_mode == "wal"
        and held == fcntl.F_RDLCK
        and _lock_on_file(f"{path}-shm", _SHM_IN_USE, 1) == fcntl.F_UNLCK
    ):
        return SourceUnusable(
            f"a process has {path} open in WAL mode, but its WAL is not beside this path: it opened the file by "
            "another name",
            f"{mount_directory_hint(os.path.dirname(path))}; a hard link is also another name",
        )
    return None


def _lock_directory(path: str) -> SourceUnlocked:
    return SourceUnlocked(
        f"{path} is locked by the directory {path}.lock (SQLite's VFS unix-dotfile), which does not keep other "
        "programs from reading half a transaction",
        f"{_USE_UNIX}; remove that directory only while the app is stopped",
    )


def _lock_on_file(path: str, start: int, size: int) -> int:
    """Return `lock_on` of the file at `path`: unlocked if it does not exist, locked if it may not be read."""
    try:
        with opened_file(path) as descriptor:
            return lock_on(descriptor, start, size)
    except FileNotFoundError:
        return fcntl.F_UNLCK
    except PermissionError:
        return fcntl.F_WRLCK


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False
