"""What a backup of a set of files leaves out, which a restore of it leaves alone."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from backupd.system.path_patterns import excluded

OWN_PREFIX, KEPT = b".backupd", b".pre-restore-"
LOST_AND_FOUND = b"lost+found"  # of the file system, where the set is all of one


def left_alone(exclude: Sequence[str], left_out: Iterable[str]) -> Callable[[bytes, bool], bool]:
    """Return what tells whether a path, of a directory or not, is left out: by pattern, name or `left_out`."""
    of_files, of_directories = excluded(exclude, directories=False), excluded(exclude, directories=True)
    paths = frozenset(os.fsencode(path) for path in left_out)

    def is_left_alone(path: bytes, is_directory: bool) -> bool:  # noqa: FBT001 - one of two kinds
        name = path.rpartition(b"/")[2]
        matches = of_directories if is_directory else of_files
        is_own = name.startswith(OWN_PREFIX) or KEPT in name or (path == LOST_AND_FOUND and is_directory)
        return is_own or path in paths or (matches is not None and bool(matches(path)))

    return is_left_alone


def path_below(directory: Path, path: Path | str) -> str | None:
    """Return `path`, whose links are followed, relative to a `directory` without links; None where it is not below."""
    real = Path(os.path.realpath(path))
    return str(real.relative_to(directory)) if directory in real.parents else None
