"""Whether there is a database, for a restore at the start of a container: what could be data is never replaced."""

import os
import stat
from pathlib import Path

from backupd.errors import TargetRefused
from backupd.sqlite.database_files import side_files
from backupd.sqlite.swap_journal import pending_swap

_EMPTY_BYTES = 1  # SQLite takes a file of one byte for a new database, too


def database_is_there(path: Path, *, empty_is_data: bool) -> bool:
    """Tell whether a database lies where `path` leads; an empty file is one only where `empty_is_data`.

    A restore that was killed leaves none, until it is finished or undone. Raises TargetRefused where side files without
    a database could hold data, or something else bears its name; OSError.
    """
    real = Path(os.path.realpath(path))
    if pending_swap(real) is not None:
        return False
    try:
        state = real.stat()
    except FileNotFoundError:
        return _refuse_side_files(real)
    if not stat.S_ISREG(state.st_mode):
        raise TargetRefused(f"{real} is no regular file", "give the path of the database file itself")
    return state.st_size > _EMPTY_BYTES or empty_is_data or _refuse_side_files(real)


def _refuse_side_files(real: Path) -> bool:
    """Return False where the side files of a database that is missing or empty hold nothing. Raises TargetRefused."""
    for path in side_files(real):
        if not path.name.endswith("-shm") and os.path.lexists(path) and path.lstat().st_size > 0:
            raise TargetRefused(
                f"{path} lies beside a database that is missing or empty: it may hold its data",
                f"look for {real.name} and put it back; or replace both: backupd restore keeps that file",
            )
    return False
