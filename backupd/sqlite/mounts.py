"""Which kind of file system a path is on: SQLite's locks and shared memory are only safe on a local one.

https://sqlite.org/wal.html ("WAL does not work over a network filesystem") and sqlite.org/howtocorrupt.html §2.1.
"""

import os
import re

_REMOTE = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|virtiofs|ceph|afs|ncpfs|lustre|gpfs|beegfs|vboxsf|prl_fs|fuse(blk|\..*)?"
)
_OCTAL = re.compile(r"\\([0-7]{3})")


def filesystem_of(path: str, mountinfo: str | None = None) -> str:
    """Return the type of the file system that holds `path` (absolute, links resolved), `unknown` without /proc.

    `mountinfo` is the text of /proc/self/mountinfo (proc(5)); the last mount on the longest matching
    mount point is the one that is seen.
    """
    if mountinfo is None:
        try:
            with open("/proc/self/mountinfo", "rb") as stream:
                mountinfo = os.fsdecode(stream.read())
        except OSError:
            return "unknown"
    best, kind = "", "unknown"
    for line in filter(None, mountinfo.split("\n")):  # names may hold whatever else ends a line for Python
        before, _, after = line.partition(" - ")
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), before.split(" ")[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, after.split(" ")[0]
    return kind


def is_remote(kind: str) -> bool:
    """Tell whether another kernel may write to a file system of this `kind` at the same time."""
    return _REMOTE.fullmatch(kind) is not None
