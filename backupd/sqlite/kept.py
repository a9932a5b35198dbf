"""What restores have kept beside a database: each old one with its side files and the record of its restore."""

import os
import stat
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from backupd.sqlite.swap_journal import RECORD, SIDE_FILES, is_kept, kept_order
from backupd.system.fs import fsync_directory

KEPT_FOR: Final = timedelta(days=30)  # what the next undo puts back stays for so long at least
# In the order of their removal: a record without its database would stand in the way of an undo, and a database without
# its WAL must never be put back.
_SUFFIXES: Final = (RECORD, "", *SIDE_FILES)


@dataclass(frozen=True, slots=True)
class KeptDatabase:
    """An old database that a restore to a database has kept, or what is left of one, at `path` and beside it.

    `since` is aware, UTC: the time in its name, or the last change of its files where that is later.
    """

    path: Path
    files: tuple[Path, ...]
    since: datetime
    size_bytes: int

    @property
    def holds_data(self) -> bool:
        """Whether there is more than the record of a restore, which is all that an online one leaves."""
        return any(path.suffix != RECORD for path in self.files)


def kept_files(target: Path) -> tuple[KeptDatabase, ...]:
    """Return all that restores to `target` (a real path) have kept, oldest first; nothing else. Raises OSError."""
    found: defaultdict[str, list[tuple[Path, os.stat_result]]] = defaultdict(list)
    for path in target.parent.iterdir():
        names = (path.name.removesuffix(suffix) for suffix in _SUFFIXES)
        name = next((name for name in names if is_kept(name, target.name)), None)
        if name is not None and stat.S_ISREG((state := path.lstat()).st_mode):  # a link is none of ours
            found[name].append((path, state))
    ordered = sorted(found, key=lambda name: kept_order(name, target.name))
    return tuple(_kept(target, name, found[name]) for name in ordered)


def remove_kept(kept: KeptDatabase) -> None:
    """Remove what was kept, durably; killed in the middle, what is left is found again. Raises OSError."""
    for suffix in _SUFFIXES:
        path = kept.path.with_name(f"{kept.path.name}{suffix}")
        if path in kept.files:
            path.unlink(missing_ok=True)
    fsync_directory(kept.path.parent)


def _kept(target: Path, name: str, files: list[tuple[Path, os.stat_result]]) -> KeptDatabase:
    changed_at = max(datetime.fromtimestamp(state.st_ctime, UTC) for _, state in files)
    time, _number = kept_order(name, target.name)
    try:
        named_at = datetime.strptime(time, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:  # a name that only looks like one of ours
        named_at = changed_at
    size_bytes = sum(state.st_size for _, state in files)
    paths = tuple(path for path, _ in files)
    return KeptDatabase(target.with_name(name), paths, max(named_at, changed_at), size_bytes)
