"""The directory of a database, in which its app makes the side files: one that was made empty gets its owner back.

A fresh volume belongs to root. Where the app may not write to it, SQLite takes even its own file for a read-only one.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from backupd.model import SourceFacts
from backupd.sqlite.swap_journal import is_part, swap_journal_path
from backupd.system.fs import change_owner, set_mode
from backupd.system.owners import known_owner, owner_text

_LOST_AND_FOUND = "lost+found"
_OWNER_MAY, _GROUP_MAY, _OTHERS_MAY = 0o300, 0o030, 0o003


@dataclass(frozen=True, slots=True)
class Permissions:
    """Owner, group and mode (permission bits) of a directory; ids are None where a user namespace does not map them."""

    uid: int | None
    gid: int | None
    mode: int

    @classmethod
    def of(cls, directory: Path) -> Self:
        """Return those of `directory`. Raises OSError."""
        state = directory.stat()
        return cls(*known_owner(directory, state), stat.S_IMODE(state.st_mode))

    @classmethod
    def recorded(cls, origin: SourceFacts) -> Self:
        """Return those that a manifest records, as far as they are applied: a manifest may come from another host.

        The setuid bit goes. Where all may write, the sticky bit comes: others cannot remove files of the app.
        """
        mode = origin.directory_mode & ~stat.S_ISUID
        sticky = stat.S_ISVTX if mode & stat.S_IWOTH else 0
        return cls(origin.directory_uid, origin.directory_gid, mode | sticky)

    def __str__(self) -> str:
        return f"{owner_text(self.uid, self.gid)}, mode {self.mode:04o}"

    def allows(self, uid: int, gid: int | None) -> bool:
        """Tell whether a process of `uid`:`gid`, with no other group, may make files in a directory of these rights."""
        if uid == 0:
            return True
        needed = _OWNER_MAY if uid == self.uid else _GROUP_MAY if gid == self.gid else _OTHERS_MAY
        return self.mode & needed == needed


def plan_permissions(database: Path, origin: SourceFacts, backups: Path) -> Permissions | None:
    """Return what the directory of a `database` that is not there yet is to get, None where it is left alone.

    Only a directory of root's is given away, and only one that holds nothing but what is ours: the directory of the
    `backups`, what a killed restore left. Raises OSError.
    """
    directory, wanted = database.parent, Permissions.recorded(origin)
    if not directory.is_dir():
        return None
    found = Permissions.of(directory)
    ours = {_LOST_AND_FOUND, swap_journal_path(database).name, *([backups.name] if backups.parent == directory else [])}
    if found.uid != 0 or wanted.uid is None or wanted == found:
        return None
    empty = all(path.name in ours or is_part(path.name, database.name) for path in directory.iterdir())
    return wanted if empty else None


def apply_permissions(directory: Path, rights: Permissions) -> bool:
    """Give `directory`, which is root's, `rights`; False where this process may not. Raises OSError.

    The owner comes last: killed before that, it is given again. Root without DAC_OVERRIDE cannot write there any more,
    and has to become that owner.
    """
    found = Permissions.of(directory)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        set_mode(descriptor, rights.mode, directory)
        given = rights.uid is not None and change_owner(descriptor, rights.uid, rights.gid, directory) is None
        if not given:
            set_mode(descriptor, found.mode, directory)
    finally:
        os.close(descriptor)
    return given


def permission_warning(directory: Path, rights: Permissions, origin: SourceFacts) -> str:
    """Say what is wrong where the owner of the database cannot write to its `directory`; nothing where it can."""
    uid, gid = origin.uid, origin.gid
    if uid is None or rights.allows(uid, gid):
        return ""
    return (
        f"uid {uid} cannot write to {directory}: its app would find the database read-only; "
        f"give it the directory: chown {owner_text(uid, gid)} {directory}"
    )
