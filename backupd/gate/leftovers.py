"""Remove what the tests of an app leave behind: files of any mode, any name and any depth, without following links."""

import os
import secrets
import stat
import tempfile
from contextlib import suppress
from typing import Final

from backupd.errors import GateStepFailed
from backupd.system.fs import opened

# Where every user may write, in the image of backupd as well.
_PLACES: Final = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock", "/backups")  # noqa: S108


def remove_files_of(user: int, prefix: str) -> None:
    """Remove directories of this process whose names begin with `prefix`, and what belongs to `user` in public places.

    No process of `user` may be left. Raises GateStepFailed.
    """
    for place in {tempfile.gettempdir(), *_PLACES}:
        try:
            with opened(place, os.O_RDONLY | os.O_DIRECTORY) as directory:
                with os.scandir(directory) as entries:
                    names = [entry.name for entry in entries if _is_leftover(entry, user, prefix)]
                for name in names:
                    _remove(directory, name, f"{prefix}{secrets.token_hex(8)}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise GateStepFailed(
                f"files of the tests in {place} cannot be removed: {error.strerror}",
                "remove files of the test_user there, or start the container of the gate again without them",
            ) from error


def _is_leftover(entry: "os.DirEntry[str]", user: int, prefix: str) -> bool:
    with suppress(OSError):
        owner = entry.stat(follow_symlinks=False).st_uid
        return owner == user or (owner == os.geteuid() and entry.name.startswith(prefix))
    return False


def _remove(directory: int, name: str, aside: str) -> None:
    """Remove `name` in the open `directory`; directories below it are moved up first, under names that begin `aside`.

    So none is too deep, and two files are open at a time. Raises OSError.
    """
    pending = [name] if _is_directory(directory, name) else []
    number = 0
    while pending:
        one = pending.pop()
        descriptor = os.open(one, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            os.fchown(descriptor, os.geteuid(), os.getegid())  # or its sticky bit would protect files of others
            os.fchmod(descriptor, 0o700)
            for inner in os.listdir(descriptor):  # noqa: PTH208 - of an open directory
                if _is_directory(descriptor, inner):
                    number += 1
                    pending.append(f"{aside}.{number}")
                    os.rename(inner, pending[-1], src_dir_fd=descriptor, dst_dir_fd=directory)
        finally:
            os.close(descriptor)
        os.rmdir(one, dir_fd=directory)


def _is_directory(directory: int, name: str) -> bool:
    """Unlink anything but a directory; return whether it is one."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
            return True
        os.unlink(name, dir_fd=directory)
    return False
