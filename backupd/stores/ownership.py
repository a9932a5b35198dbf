"""Change the owner of what root owns of a store: of a new volume, or of files from a run as root.

The app may write to that directory. So no link is followed, on the way to it or inside, and files with a second hard
link or with a name that is not backupd's are left alone, as is what is mounted there. A user who may write to a
directory can rename objects of root in it: there only empty ones are given away.
"""

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from backupd.model import MANIFEST_SUFFIX, POINT_SUFFIX, SUFFIXES, is_generation_id
from backupd.stores.contract import CHECKSUMS, CONTENTS, HIDDEN
from backupd.system.directory import Directory, mount_of_descriptor
from backupd.system.links import others_write

_SUFFIXES: Final = (*SUFFIXES.values(), MANIFEST_SUFFIX, POINT_SUFFIX)
_CONTENTS_DEPTH: Final = 2  # files/ab/SHA256
_MAX_DEPTH: Final = 8  # .backupd/quarantine/SOURCE/NAME/snapshot.sqlite3 is the deepest


def transfer_ownership(directory: Path, uid: int, gid: int, log_name: str) -> None:
    """Change the owner of `directory`, and of backupd's files in it that root owns, to `uid`:`gid`. Needs CAP_CHOWN.

    Makes a missing directory that `uid` could not make, never its parent. Does nothing where it cannot be made or
    opened: the store reports that when it is used. Raises OSError where root may not chown.
    """
    owner = (uid, gid)
    with ExitStack() as stack:
        try:
            parent = stack.enter_context(Directory.open(directory.parent, links=False))
            if os.fstat(parent.descriptor).st_uid != uid:
                parent.make(directory.name, 0o750).close()
            place = stack.enter_context(parent.child(directory.name))
            names = place.names()
        except OSError:
            return
        is_mount = mount_of_descriptor(place.descriptor) != mount_of_descriptor(parent.descriptor)
        if names and not is_mount and not _only_root_names(parent) and os.fstat(place.descriptor).st_uid == 0:
            return  # a directory of root's that its app renamed?
        for name in filter(_is_own_file(log_name), names):
            _chown(place, name, owner, 0)
        _chown(place, CONTENTS, owner, _CONTENTS_DEPTH)
        _chown(place, HIDDEN, owner, _MAX_DEPTH)
        if not os.fstat(place.descriptor).st_mode & stat.S_IWOTH:
            _chown_opened(place.descriptor, owner)


def _is_own_file(log_name: str) -> Callable[[str], bool]:
    def is_own(name: str) -> bool:
        stems = (name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix))
        return name == CHECKSUMS or name.startswith(log_name) or any(is_generation_id(stem) for stem in stems)

    return is_own


def _chown(parent: Directory, name: str, owner: tuple[int, int], depth: int) -> None:
    """Change the owner of a regular file, or of a directory and all in it; of itself last: its owner may deny it.

    What cannot be opened is left alone, and so are directories in more than `depth` others.
    """
    with ExitStack() as stack:
        names: list[str] = []
        try:
            state = parent.stat(name)
            if state is None:
                return
            if not stat.S_ISDIR(state.st_mode):
                descriptor = parent.open_file(name, one_link=True)
                stack.callback(os.close, descriptor)
            elif depth:
                directory = stack.enter_context(parent.child(name))
                descriptor = directory.descriptor
                if mount_of_descriptor(descriptor) != mount_of_descriptor(parent.descriptor):
                    return
                names = directory.names()
            else:
                return
        except OSError:
            return
        state = os.fstat(descriptor)
        is_empty = not names if stat.S_ISDIR(state.st_mode) else not state.st_size
        if state.st_uid == 0 and not is_empty and not _only_root_names(parent):
            return
        for below in names:
            _chown(directory, below, owner, depth - 1)
        _chown_opened(descriptor, owner)


def _only_root_names(directory: Directory) -> bool:
    """Tell whether no other user can have given a file of root's its name in `directory`, by renaming it."""
    state = os.fstat(directory.descriptor)
    return state.st_uid == 0 and not others_write(state)


def _chown_opened(descriptor: int, owner: tuple[int, int]) -> None:
    if os.fstat(descriptor).st_uid == 0:
        os.fchown(descriptor, *owner)
