"""Which configuration files are trusted: they name commands to run and hosts to send copies to."""

import os
import stat
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def refusal(file: Path) -> str:
    """Return why a file that was found, not named, is ignored; empty if it is used.

    It is used if only this user and root can have written it: one of the two owns the file and every directory above
    it, and others can write to none of them. A directory further up may be sticky, as /tmp is: others cannot replace
    files of this user or of root in it. Raises OSError.
    """
    trusted = {0, os.geteuid()}
    directory = Path(os.path.realpath(file.parent))
    for place in (directory, *directory.parents):
        state = place.stat()
        is_shared_above = place != directory and bool(state.st_mode & stat.S_ISVTX)
        if problem := _problem(state, trusted, is_shared=is_shared_above):
            return f"its directory {place} {problem}"
    state = file.lstat()
    if not stat.S_ISREG(state.st_mode):
        return "it is not a regular file"
    if state.st_nlink > 1:
        return "it has another name (hard link)"
    problem = _problem(state, trusted)
    return f"it {problem}" if problem else ""


def exposure(file: Path, databases: dict[str, Path]) -> str:
    """Return who else can write the configuration `file` that the operator named; empty where it is well protected.

    Its owner does not count: a container sees the owner that the file has on the host. The mode does, unless the file
    is mounted read-only, and so does the directory of a database of `databases`, which the app writes to.
    """
    place = Path(os.path.realpath(file))
    try:
        is_read_only = bool(os.statvfs(place).f_flag & os.ST_RDONLY)
        mode = place.stat().st_mode
    except OSError:
        return ""
    if is_read_only:
        return ""
    if mode & stat.S_IWOTH:
        return f"{file} can be written by every user (mode {stat.S_IMODE(mode):04o})"
    for name, database in databases.items():
        if Path(os.path.realpath(database)).parent in place.parents:
            return f"{file} is in the directory of the database of {name}, where the app can replace it"
    return ""


def _problem(state: os.stat_result, trusted: set[int], *, is_shared: bool = False) -> str:
    if state.st_uid not in trusted:
        return f"belongs to another user (uid {state.st_uid})"
    if state.st_mode & _OTHERS and not is_shared:
        return f"can be written by other users (mode {stat.S_IMODE(state.st_mode):04o})"
    return ""
