"""Failed system calls explained: what failed, and what to do about rights, free space, mounts and limits."""

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from backupd.errors import BackupdError, InputOutputError, NoSpace
from backupd.system.fs import is_disk_full, known_path, visible_directory
from backupd.system.owners import ownership_hint
from backupd.system.process import start_refusal
from backupd.system.small_file import UnexpectedFile

if TYPE_CHECKING:  # child processes import this
    from pathlib import Path

_SWEPT_FILES: Final = 16  # a task that ran out of inodes has removed its own files since, a dozen at most
_ROOM_BYTES: Final = 1 << 20
_OF_THE_NEW_NAME: Final = frozenset((errno.EISDIR, errno.ENOTEMPTY, errno.ENOTDIR))  # of a rename
_DENIED: Final = frozenset((errno.EACCES, errno.EPERM))
_REMEDIES: Final = (
    (_DENIED, "user {user} lacks the rights to {path}: run as its owner (PUID=auto; `stat -c %u:%g` shows it)"),
    (frozenset((errno.EROFS,)), "mount {path} writable; if it became read-only by itself, see dmesg"),
    (
        frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)),
        "check the path {path}, and what is mounted there",
    ),
    (
        frozenset((errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT)),
        "the server behind the mount of {path} does not answer: check it, and mount it again",
    ),
    (frozenset((errno.EMFILE, errno.ENFILE)), "allow more open files (ulimit -n; docker run --ulimit nofile=1024)"),
)
_ELSE: Final = "check the disk of {path} (dmesg)"


def foreseen_error(error: BaseException, place: "Path | str | None" = None, full_hint: str = "") -> BackupdError | None:
    """Return `error` with what to do about it: a BackupdError, a failed system call, or a process that does not start.

    None for a defect. `place` is a path in the file system that is concerned where the error names no file; `full_hint`
    is another way out where that is full, beside making space.
    """
    if isinstance(error, BackupdError):
        return error
    if not isinstance(error, OSError):
        return start_refusal(error)
    if is_disk_full(error):
        what, hint = explain_full(error, place or _file_of(error))
        return NoSpace(what, hint + full_hint)
    kind = "" if isinstance(error, UnexpectedFile) else "I/O error: "
    return InputOutputError(f"{kind}{os_error_text(error)}", os_error_hint(error, place))


def os_error_text(error: OSError) -> str:
    """Return the error and its file, without the error number."""
    path = _file_of(error)
    if path is None:
        return str(error.strerror or error)
    link = dangling_link(path) if error.errno == errno.ENOENT else ""
    return f"{error.strerror}: {path}{f' ({link})' if link else ''}"


def dangling_link(path: "Path | str") -> str:
    """Return which part of `path` is a symbolic link to a missing file, as a sentence; empty where none is."""
    place = os.fspath(path)
    while place and place != os.sep:
        if os.path.islink(place) and not os.path.exists(place):
            return f"{place} is a symbolic link to {os.readlink(place)}, which does not exist"
        place = os.path.dirname(place)
    return ""


def os_error_hint(error: OSError, place: "Path | str | None" = None) -> str:
    """Return what to do about `error`, which concerns the file that it names, or else `place`."""
    path = _file_of(error) or place
    if is_disk_full(error):
        return explain_full(error, path)[1]
    if isinstance(error, UnexpectedFile):
        return f"find out who put it there; then move it away (ls -la {path})"
    text = next((text for numbers, text in _REMEDIES if error.errno in numbers), _ELSE)
    hint = text.format(path=path or "the files", user=f"{os.geteuid()}:{os.getegid()}")
    return ownership_hint(path, hint) if path and error.errno in _DENIED else hint


def explain_full(error: OSError, place: "Path | str | None") -> tuple[str, str]:
    """Return what is used up where `is_disk_full(error)`, and what to do; `place` is a path in that file system."""
    directory = _directory(place)
    where = f"the file system of {visible_directory(directory)}" if directory else "the file system"
    if error.errno == errno.EDQUOT:
        return f"the quota on {where} is used up", "raise the quota (repquota -s), or free space there"
    if directory and lacks_inodes(directory, _SWEPT_FILES):
        return explain_no_inodes(directory)
    return f"{where} is full", f"free space on {where}"


def explain_no_inodes(place: "Path | str") -> tuple[str, str]:
    """Return that the file system of `place` has no free inodes, and what to do."""
    seen = visible_directory(place)
    what = f"the file system of {seen} has no free inodes, though it has free space"
    return what, f"remove files there (df -i {seen})"


def lacks_inodes(place: "Path | str", files: int) -> bool:
    """Tell whether the file system of `place` has free space, but too few inodes for so many new files.

    A file system that makes inodes on demand reports none (btrfs). False where that cannot be determined.
    """
    with suppress(OSError):
        state = os.statvfs(place)
        has_room = state.f_bavail * state.f_frsize >= _ROOM_BYTES
        return has_room and state.f_files > 0 and state.f_favail < files
    return False


def _file_of(error: OSError) -> str | None:
    named = error.filename2 if error.filename2 and error.errno in _OF_THE_NEW_NAME else error.filename
    path = os.fsdecode(named) if isinstance(named, str | bytes) else None
    return None if path is None else known_path(path)


def _directory(place: "Path | str | None") -> str:
    """Return the nearest existing directory to `place`."""
    path = os.fspath(place) if place is not None else ""
    while path and not os.path.isdir(path):
        path, below = os.path.split(path)
        if not below:
            break
    return path
