"""The owner of a file in this user namespace, which shows an owner that it does not map as the overflow id.

That id (65534) is also a mapped user in most containers, so that stat(2) alone cannot distinguish the two:
user_namespaces(7), "Unmapped user and group IDs".
"""

import os
from contextlib import contextmanager, suppress
from errno import EACCES
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # child processes import this
    from collections.abc import Iterator
    from pathlib import Path

NAMESPACE_HINT: Final = (
    "run backupd in the user namespace of the app: with Docker by the same daemon, with the same userns-remap or with "
    "--userns=host for both; with Podman in the app's pod, or with --userns=keep-id for both; with LXC, map the id of "
    "the owner (lxc.idmap)"
)
_ALL_IDS = 2**32 - 1
_OVERFLOW = 65534  # where /proc has no value
_AS_IT_IS = -1  # to setfsuid(2), which returns the id that there is


def known_owner(path: "Path | str", state: os.stat_result) -> tuple[int | None, int | None]:
    """Return user and group of the regular file or directory at `path`, None for one that is not mapped here.

    A group cannot be tested as a user can: the overflow group counts as mapped only where the user is the overflow user
    as well, or this process is in that group.
    """
    uid: int | None = state.st_uid
    gid: int | None = state.st_gid
    if uid == overflow_id("uid") and not _is_real(path, state.st_uid):
        uid = None
    overflow_gid = overflow_id("gid")
    if gid == overflow_gid and not _maps_all("gid") and overflow_gid not in (os.getegid(), uid):
        gid = None
    return uid, gid


def owner_of(descriptor: int) -> str:
    """Return the owner of an open file as text, see `owner_text`."""
    return owner_text(*known_owner(f"/proc/self/fd/{descriptor}", os.fstat(descriptor)))


def owner_or_directory_owner(uid: int | None, gid: int | None, directory: "Path") -> tuple[int | None, int | None]:
    """Return `uid` and `gid`, or the owner of `directory` where that user is unknown. Raises OSError."""
    return known_owner(directory, directory.stat()) if uid is None else (uid, gid)


def owner_text(uid: int | None, gid: int | None) -> str:
    """Return `uid:gid`, as chown(1) reads it; `uid` or `unknown` where one is not known."""
    return "unknown" if uid is None else f"{uid}" if gid is None else f"{uid}:{gid}"


@cache
def overflow_id(kind: str) -> int:
    """Return the id that stands for all unmapped ones of this `kind`, uid or gid (proc(5))."""
    try:
        with open(f"/proc/sys/kernel/overflow{kind}", "rb") as stream:
            return int(stream.read())
    except OSError:
        return _OVERFLOW


def host_id(kind: str, number: int) -> int | None:
    """Return the id outside of this user namespace for the id `number` of `kind`, uid or gid; None if unmapped."""
    for inside, outside, count in _ranges(kind):
        if inside <= number < inside + count:
            return outside + number - inside
    return None


def ownership_hint(path: "Path | str", otherwise: str) -> str:
    """Return the hint for a denied operation at `path`: `otherwise`, unless its owner is not mapped here.

    Where the path cannot be seen, its nearest visible directory counts.
    """
    place = os.fspath(path)
    while not os.path.exists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    with suppress(OSError):
        if known_owner(place, os.stat(place))[0] is None:
            return f"{place} belongs to a user that is not mapped here: {NAMESPACE_HINT}"
    return otherwise


def become_owner(uid: int | None, gid: int | None) -> bool:
    """Drop root for `uid`:`gid`, for good; return whether this process now runs as the owner of the database.

    A process that is not root, or root without CAP_SETUID, stays what it is; so does one whose user namespace does not
    map the owner (None). A group that it does not map is done without.
    """
    if os.geteuid() == uid:
        return True
    if os.geteuid() != 0 or uid is None:
        return False
    try:
        os.setgroups([])
        os.setgid(os.getegid() if gid is None else gid)
        os.setuid(uid)
    except PermissionError:
        return False
    return True


def give(path: "Path | str", user: int) -> None:
    """Make `user`, as uid and gid, the owner of what is at `path`, also of a link, where nobody else may write.

    Raises OSError; EINVAL where this user namespace does not have that uid (user_namespaces(7)).
    """
    os.chown(path, user, user, follow_symlinks=False)


@contextmanager
def rights_of_owner(state: os.stat_result, *, readable: bool) -> "Iterator[None]":
    """Take the rights of the owner for the block where root has fewer, as in a container without DAC_OVERRIDE.

    All threads of this process have them then. Raises PermissionError without SETUID.
    """
    changes = os.geteuid() == 0 and state.st_uid != 0 and not readable
    if changes:
        os.seteuid(state.st_uid)
    try:
        yield
    finally:
        if changes:
            os.seteuid(0)


def _maps_all(kind: str) -> bool:
    return sum(count for _, _, count in _ranges(kind)) >= _ALL_IDS


def _ranges(kind: str) -> list[tuple[int, int, int]]:
    """Return first id here, first id outside and number of ids of each range that is mapped (user_namespaces(7))."""
    try:
        with open(f"/proc/self/{kind}_map", "rb") as stream:
            return [(int(a), int(b), int(c)) for a, b, c in (line.split() for line in stream)]
    except OSError:  # no /proc, or a kernel without user namespaces
        return [(0, 0, _ALL_IDS)]


def _is_real(path: "Path | str", uid: int) -> bool:
    """Tell whether the user `uid` of this namespace is the owner; without a way to test it, assume no namespace."""
    tried = _opens_as_owner(path, uid)
    return _maps_all("uid") if tried is None else tried


def _opens_as_owner(path: "Path | str", uid: int) -> bool | None:
    """Tell whether the kernel accepts `uid` as the owner, who may open with O_NOATIME (open(2)); None: unknown.

    Only this thread becomes `uid`, and only to the file system (setfsuid(2)), which needs CAP_SETUID.
    """
    import ctypes  # rarely needed, and slow to load

    libc = ctypes.CDLL(None)
    handle = os.open(path, os.O_PATH)
    before = libc.setfsuid(uid)
    try:
        if libc.setfsuid(_AS_IT_IS) != uid:
            return None
        os.close(os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NOATIME | os.O_NONBLOCK))
    except PermissionError as error:
        return None if error.errno == EACCES else False
    except OSError:
        return None
    else:
        return True
    finally:
        libc.setfsuid(before)
        os.close(handle)
