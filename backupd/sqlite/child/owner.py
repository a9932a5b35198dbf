"""Become the owner of the app's database, so that any side file that SQLite makes is the app's own."""

import os


def become_owner(uid: int, gid: int) -> bool:
    """Drop root for `uid`:`gid`, for good; return whether this process now runs as the owner of the database.

    A process that is not root, or root without CAP_SETUID, stays what it is.
    """
    if os.geteuid() == uid:
        return True
    if os.geteuid() != 0:
        return False
    try:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    except PermissionError:
        return False
    return True
