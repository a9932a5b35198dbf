"""Hold the kernel's write lease on files, which it grants only while no process has them open (fcntl(2), F_SETLEASE).

Unlike SQLite's own locks it detects an idle app, in either journal mode, and one in another container. While it is
held, the kernel delays every process that opens one of the files, and informs this one: so a file can be replaced
without another process getting the old one in between. Run as `python -m backupd.sqlite.worker.file_lease`. The request
is one line of JSON and so is its reply; each further line is answered with the files that a process waits for. The end
of the input ends the lease.
"""

import fcntl
import json
import os
import signal
import sys
from errno import EACCES, EAGAIN, EINVAL, ENOLCK, EPERM

from backupd.sqlite.worker.protocol import LeaseRequest, LeaseState
from backupd.system.owners import become_owner

# Neither owner nor CAP_LEASE, or a file system without leases: whether the file is open is unknown.
_UNKNOWN = (EACCES, EPERM, EINVAL, ENOLCK)


def main() -> None:
    """Serve one lease."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # the kernel's notice that a process waits; F_GETLEASE is asked instead
    line = sys.stdin.readline()
    if not line:  # the parent has ended
        return
    request: LeaseRequest = json.loads(line)
    descriptors: dict[str, int] = {}
    state = _take(request["paths"], descriptors)
    if state["state"] == "unknown" and become_owner(request["uid"], request["gid"]):  # root with few capabilities
        state = _take(request["paths"], descriptors)
    _send(state)
    for _ in sys.stdin:
        _send({"open_requested": [path for path, descriptor in descriptors.items() if _is_breaking(descriptor)]})


def _take(paths: list[str], descriptors: dict[str, int]) -> LeaseState:
    """Take a lease on each file that exists, and keep it in `descriptors`; return the first failure."""
    for path in paths:
        if path in descriptors:
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            return _failure(path, error)
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            os.close(descriptor)
            return _failure(path, error)
        descriptors[path] = descriptor
    return LeaseState(state="held", path="", reason="")


def _failure(path: str, error: OSError) -> LeaseState:
    if error.errno == EAGAIN:  # of the lease: another process has it open; of the open: another one holds a lease
        return LeaseState(state="used", path=path, reason=str(error.strerror))
    if error.errno in _UNKNOWN:
        return LeaseState(state="unknown", path=path, reason=str(error.strerror))
    raise error


def _is_breaking(descriptor: int) -> bool:
    """Return whether a process waits for the lease to end: F_GETLEASE then returns what it is to become."""
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) != fcntl.F_WRLCK


def _send(reply: LeaseState | dict[str, list[str]]) -> None:
    print(json.dumps(reply), flush=True)  # noqa: T201 - to the parent


if __name__ == "__main__":
    main()
