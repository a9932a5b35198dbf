"""Symbolic links on the way to a database: they count only where link and target have one owner.

A user who may write to a directory can put a link there, which leads a process with more rights to what that user may
neither read nor replace: another app's database, or a file of root's. The operator's own links are in directories that
only root can change, outside of any volume.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from backupd.errors import TargetRefused
from backupd.system.directory import Directory

LINK_HINT: Final = (
    "if you made the link, configure the path that it leads to, or give it the owner of its target (chown -h); if you "
    "did not, another user who can write to that directory did"
)
_ROOT: Final = Path(os.sep)
_MOST_LINKS: Final = 40  # as the kernel (path_resolution(7))
_PASS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_OPERATOR: Final = -1  # the owner of a link that only root can have made, in no volume of an app


class ForeignLink(NamedTuple):  # no dataclass: child processes import this
    """A link whose `owner` is not the `target_owner`: user ids."""

    path: Path
    owner: int
    target: Path
    target_owner: int

    def __str__(self) -> str:
        return (
            f"{self.path} is a link of user {self.owner} to {self.target}, which belongs to user {self.target_owner}: "
            "backupd follows a link only to what belongs to the owner of the link"
        )


class Step(NamedTuple):
    """A directory, a link, or what a path leads to at last, as lstat(2) describes it."""

    path: Path
    state: os.stat_result


def steps_to(path: Path) -> Iterator[Step]:
    """Yield all that is passed on the way to the absolute `path`, each link before what it leads to.

    It ends where something is missing or not accessible.
    """
    at, links = _ROOT, 0
    left = [*reversed(path.parts[1:])]
    with suppress(OSError):
        yield Step(at, at.lstat())
        while left:
            part = left.pop()
            if part == os.pardir:
                at = at.parent
                continue
            step = Step(at / part, (at / part).lstat())
            yield step
            if not stat.S_ISLNK(step.state.st_mode):
                at = step.path
                continue
            links += 1
            if links > _MOST_LINKS:
                return
            target = step.path.readlink()
            at = _ROOT if target.is_absolute() else at
            left += [part for part in reversed(target.parts) if part != os.sep]


def foreign_link(path: Path) -> ForeignLink | None:
    """Return the first link on the way to the absolute `path` that leads to something of another owner."""
    for step in steps_to(path):
        if not stat.S_ISLNK(step.state.st_mode) or _is_operators(step):
            continue
        target, owner = _end_of(step.path)
        if owner != step.state.st_uid:
            return ForeignLink(step.path, step.state.st_uid, target, owner)
    return None


def stat_without_links(path: Path) -> os.stat_result:
    """Return the state of the absolute `path`, without any link, not even one made since it was resolved.

    Raises OSError, ELOOP or ENOTDIR for a link.
    """
    *above, name = path.parts[1:] or (os.curdir,)
    at = os.open(_ROOT, os.O_PATH)
    try:
        for part in above:
            below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        state = os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(at)
    if stat.S_ISLNK(state.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return state


def first_not_of_root(path: Path) -> Step | None:
    """Return the first thing on the way to the absolute `path` that another user than root owns, or can replace.

    What is missing or not accessible does not count, and neither do links.
    """
    found = (step for step in steps_to(path) if not stat.S_ISLNK(step.state.st_mode))
    return next((step for step in found if step.state.st_uid != 0 or others_write(step.state)), None)


def others_write(state: os.stat_result, *, create: bool = False) -> bool:
    """Tell whether other users than root can rename what root has in this directory; or `create` something there."""
    mode, group = state.st_mode, stat.S_IWGRP if state.st_gid != 0 else 0
    if not stat.S_ISDIR(mode) or (mode & stat.S_ISVTX and not create):
        return False
    return bool(mode & (stat.S_IWOTH | group))


def _is_operators(link: Step) -> bool:
    """Tell whether only root can have made `link`, which is in no volume of an app."""
    directory = Path(os.path.realpath(link.path.parent))
    if link.state.st_uid != 0 or first_not_of_root(directory) is not None:
        return False
    return directory.stat().st_dev == _ROOT.stat().st_dev


def _end_of(link: Path) -> tuple[Path, int]:
    """Return where `link` leads to, and the user id of that, or of the nearest directory where it would be."""
    target = Path(os.path.realpath(link))
    for place in (target, *target.parents):
        with suppress(OSError):
            return target, place.stat().st_uid
    return target, 0


def reach(path: Path) -> tuple[Directory, str]:
    """Open the directory in which the absolute `path` ends; return it, and the name there, which is no link.

    Links are followed as `foreign_link` says, each step from the descriptor of the one before: whatever is exchanged on
    the way, no other directory is reached. Raises TargetRefused for a link of another owner, OSError.
    """
    walk = _Walk()
    try:
        name = walk.to(path)
        return Directory(os.open(os.curdir, os.O_RDONLY | os.O_DIRECTORY, dir_fd=walk.at), str(walk.path)), name
    except OSError as error:
        error.filename = str(walk.path / error.filename) if isinstance(error.filename, str) else str(path)
        raise
    finally:
        os.close(walk.at)


class _Walk:
    """A walk from the root, at the directory `path`, which is open as `at`."""

    def __init__(self) -> None:
        self.at, self.path = os.open(_ROOT, _PASS), _ROOT
        self._device = os.fstat(self.at).st_dev
        self._links: list[tuple[Path, int, str]] = []
        self._only_root = True  # whether only root can have put here what is here

    def to(self, path: Path) -> str:
        """Go to the directory in which `path` ends, and return the name there. Raises TargetRefused, OSError."""
        left = [*reversed(path.parts[1:])]
        while left:
            part = left.pop()
            state = self._state(part, last=not left)
            if state is not None and stat.S_ISLNK(state.st_mode):
                left += reversed(self._target_of(part))
            elif left:
                self._go(os.open(part, _PASS, dir_fd=self.at), part)
            else:
                owner = os.fstat(self.at).st_uid if state is None else state.st_uid
                self._require_owner(owner)
                return part
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))

    def _state(self, part: str, *, last: bool) -> os.stat_result | None:
        try:
            return os.stat(part, dir_fd=self.at, follow_symlinks=False)
        except FileNotFoundError:
            if last:
                return None
            raise

    def _go(self, descriptor: int, part: str) -> None:
        os.close(self.at)
        self.at, self.path = descriptor, _ROOT if part == os.sep else Path(os.path.normpath(self.path / part))
        state = os.fstat(descriptor)
        is_roots = state.st_uid == 0 and not others_write(state) and state.st_dev == self._device
        self._only_root = is_roots and (self._only_root or part == os.sep)

    def _target_of(self, part: str) -> list[str]:
        """Note the link `part`, and return the steps to take in its place."""
        link = os.open(part, os.O_PATH | os.O_NOFOLLOW, dir_fd=self.at)
        try:
            owner, target = os.fstat(link).st_uid, os.readlink("", dir_fd=link)
        finally:
            os.close(link)
        if len(self._links) >= _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), part)
        operators = owner == 0 and self._only_root
        self._links.append((self.path / part, _OPERATOR if operators else owner, target))
        if target.startswith(os.sep):
            self._go(os.open(_ROOT, _PASS), os.sep)
        return [step for step in Path(target).parts if step != os.sep]

    def _require_owner(self, owner: int) -> None:
        for path, link_owner, target in self._links:
            if link_owner not in (owner, _OPERATOR):
                raise TargetRefused(str(ForeignLink(path, link_owner, path.parent / target, owner)), LINK_HINT)
