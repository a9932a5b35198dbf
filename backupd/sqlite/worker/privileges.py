"""Become the owner of the app's database, so that any side file that SQLite makes is the app's own."""

import os


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
