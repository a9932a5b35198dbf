"""Owner and mode of the directory of a database, in which its app creates the side files.

A new volume belongs to root. Where the app may not write to the directory, SQLite opens its database read-only.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from backupd.model import SourceFacts
from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.history import is_part_file, point_journal_name, swap_journal_name
from backupd.system.directory import Directory
from backupd.system.fs import change_owner, set_mode
from backupd.system.owners import known_owner, owner_text

_OWNER_WX, _GROUP_WX, _OTHERS_WX = 0o300, 0o030, 0o003


@dataclass(frozen=True, slots=True)
class Permissions:
    """Owner, group and mode (permission bits) of a directory; ids are None where a user namespace does not map them."""

    uid: int | None
    gid: int | None
    mode: int

    @classmethod
    def of(cls, directory: Path) -> Self:
        """Return the permissions of `directory`. Raises OSError."""
        state = directory.stat()
        return cls(*known_owner(directory, state), stat.S_IMODE(state.st_mode))

    @classmethod
    def of_open(cls, directory: Directory) -> Self:
        """Return the permissions of an open directory. Raises OSError."""
        return cls(*directory.owner(), stat.S_IMODE(os.fstat(directory.descriptor).st_mode))

    @classmethod
    def recorded(cls, origin: SourceFacts) -> Self:
        """Return the permissions that a manifest records, made safe: a manifest may come from another host.

        The setuid bit is dropped. Where all users may write, the sticky bit keeps them from removing files of the app.
        """
        mode = origin.directory_mode & ~stat.S_ISUID
        sticky = stat.S_ISVTX if mode & stat.S_IWOTH else 0
        return cls(origin.directory_uid, origin.directory_gid, mode | sticky)

    def __str__(self) -> str:
        return f"{owner_text(self.uid, self.gid)}, mode {self.mode:04o}"

    def allows(self, uid: int, gid: int | None) -> bool:
        """Return whether a process of `uid`:`gid`, with no other group, may create files in a directory with these."""
        if uid == 0:
            return True
        needed = _OWNER_WX if uid == self.uid else _GROUP_WX if gid == self.gid else _OTHERS_WX
        return self.mode & needed == needed


def plan_permissions(database: Path, origin: SourceFacts, backups: Path) -> Permissions | None:
    """Return the permissions that the directory of a new `database` is to get; None where it keeps its own.

    Only a directory of root is changed, and only one that holds nothing but the directory of the `backups` and what a
    killed restore left. Raises OSError.
    """
    wanted = Permissions.recorded(origin)
    if wanted.uid is None or not database.parent.is_dir():
        return None
    with DatabasePlace.open(database) as place:
        may_be_given = Permissions.of_open(place.directory) != wanted and _may_be_given(place, backups)
    return wanted if may_be_given else None


def apply_permissions(database: Path, rights: Permissions, backups: Path) -> bool:
    """Give the directory of a new `database`, which still is as `plan_permissions` wants it, `rights`.

    False where it is no longer so, or this process may not. The owner is set last, so that a run that was killed is
    repeated. After that, root without DAC_OVERRIDE cannot write there, and has to become that owner. Raises OSError.
    """
    with DatabasePlace.open(database) as place:
        descriptor, found = place.directory.descriptor, Permissions.of_open(place.directory)
        if rights.uid is None or not _may_be_given(place, backups):
            return False
        set_mode(descriptor, rights.mode, database.parent)
        given = change_owner(descriptor, rights.uid, rights.gid, database.parent) is None
        if not given:
            set_mode(descriptor, found.mode, database.parent)
    return given


def _may_be_given(place: DatabasePlace, backups: Path) -> bool:
    """Return whether the directory is root's, and holds only the `backups` and what a killed restore left."""
    known = {"lost+found", swap_journal_name(place.name), point_journal_name(place.name)}
    if backups.parent == place.path.parent:
        known.add(backups.name)
    with os.scandir(place.directory.descriptor) as entries:
        empty = all(entry.name in known or is_part_file(entry.name, place.name) for entry in entries)
    return empty and os.fstat(place.directory.descriptor).st_uid == 0


def permission_warning(directory: Path, rights: Permissions, origin: SourceFacts) -> str:
    """Return a warning if the owner of the database cannot write to its `directory`, else an empty text."""
    uid, gid = origin.uid, origin.gid
    if uid is None or rights.allows(uid, gid):
        return ""
    return (
        f"uid {uid} cannot write to {directory}: SQLite would open the database read-only; "
        f"change the owner: chown {owner_text(uid, gid)} {directory}"
    )
