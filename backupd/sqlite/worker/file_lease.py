"""Hold the kernel's write lease on files, which it grants only while nobody has them open (fcntl(2), F_SETLEASE).

Unlike SQLite's own locks it sees an app that is idle, in either journal mode, and one in another container. While it
is held, whoever opens one of the files waits, and we are told: so a file can be put in place of another one with nobody
in between. Run as `python -m backupd.sqlite.worker.file_lease`; the request is one line of JSON, the answer another
one, and each further line is answered with the files that somebody asks for. The end of the input ends the lease.
"""

import fcntl
import json
import os
import signal
import sys
from errno import EACCES, EAGAIN, EINVAL, ENOLCK, EPERM
from typing import Any

from backupd.system.owners import become_owner

# No right to (neither owner nor CAP_LEASE), or a file system without leases: nobody can tell who uses the file.
_UNKNOWN = (EACCES, EPERM, EINVAL, ENOLCK)


def main() -> None:
    """Serve one lease."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # how the kernel tells that somebody waits; we look when we are asked
    asked = sys.stdin.readline()
    if not asked:  # the parent is gone
        return
    request = json.loads(asked)
    descriptors: dict[str, int] = {}
    answer = _take(request["paths"], descriptors)
    if answer["state"] == "unknown" and become_owner(request["uid"], request["gid"]):  # root with few capabilities
        answer = _take(request["paths"], descriptors)
    _say(answer)
    for _ in sys.stdin:
        _say({"open_requested": [path for path, descriptor in descriptors.items() if _asked_for(descriptor)]})


def _take(paths: list[str], descriptors: dict[str, int]) -> dict[str, Any]:
    """Take a lease on each file that is there, and keep it in `descriptors`; say of the first that has none, why."""
    for path in paths:
        if path in descriptors:
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            return _refusal(path, error)
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            os.close(descriptor)
            return _refusal(path, error)
        descriptors[path] = descriptor
    return {"state": "held", "path": "", "why": ""}


def _refusal(path: str, error: OSError) -> dict[str, Any]:
    if error.errno == EAGAIN:  # of the lease: others have it open; of the open: others hold a lease
        return {"state": "used", "path": path, "why": error.strerror}
    if error.errno in _UNKNOWN:
        return {"state": "unknown", "path": path, "why": error.strerror}
    raise error


def _asked_for(descriptor: int) -> bool:
    """Tell whether the lease is being broken: the kernel then tells what it is to become."""
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) != fcntl.F_WRLCK


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)  # noqa: T201 - to the parent


if __name__ == "__main__":
    main()
