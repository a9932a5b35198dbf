"""The steps of a run, before each of which it can be killed.

A step is any visible effect: a file opened for writing, a rename, a write, an fsync, a process started, a request over
SFTP. Python reports each beforehand, by audit events (PEP 578) and by its profiler, so production code contains nothing
for it.
"""

import os
import sys
from collections.abc import Mapping
from io import BytesIO
from itertools import count
from typing import Any

from paramiko.sftp import CMD_EXTENDED, CMD_NAMES
from paramiko.util import asbytes

_AUDITED = frozenset(
    {
        "os.chmod",
        "os.chown",
        "os.link",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.symlink",
        "os.truncate",
        "shutil.rmtree",
        "sqlite3.connect",
        "subprocess.Popen",
    }
)
_READ = frozenset({"open", "os.getxattr", "os.listxattr", "os.setxattr"})
_CALLED = frozenset({"fsync", "ftruncate", "pwrite", "truncate", "write"})
_BY_CTYPES = frozenset({"_renameat2", "sync_at_once"})  # the functions that make those system calls
_WRITABLE = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def count_steps(journal: int, request: Mapping[str, Any]) -> None:
    """Write each step to come to `journal`, and send this process a signal before number `at`, and maybe `again`."""
    numbers, at = count(), request["at"]

    def step(what: str) -> None:
        if ".coverage" in what:  # the measurement's own file is no step of a backup
            return
        os.writev(journal, [f"{what}\n".encode()])
        number = next(numbers)
        if number == 0:  # before a run opens its log it only reads, and to report each call takes long
            sys.setprofile(profile)
        if number == at or (request["again"] and at is not None and number > at):
            os.kill(os.getpid(), request["signal"])

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        reads = bool(request["reads"]) and event in _READ and request["reads"] in str(arguments[0])
        if event in _AUDITED or reads or (event == "open" and arguments[2] & _WRITABLE):
            step(f"{event} {' '.join(str(argument) for argument in arguments[:2])}")

    def profile(frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and function.__name__ in _CALLED and not isinstance(function.__self__, BytesIO):
            step(f"{function.__name__} in {frame.f_code.co_name}")
        elif event == "call" and (called := _called(frame)):
            step(called)

    sys.addaudithook(audit)  # noqa: TID251 - in a fork, which is one run


def _called(frame: Any) -> str:
    """Return what a call of a function in Python is as a step, empty where it is none."""
    if frame.f_code.co_name in _BY_CTYPES:
        return f"{frame.f_code.co_name} {' '.join(map(str, frame.f_locals.values()))}"
    if frame.f_code.co_name == "_async_request":
        kind, (first, *_) = frame.f_locals["t"], frame.f_locals["args"]
        return f"sftp {asbytes(first).decode() if kind == CMD_EXTENDED else CMD_NAMES[kind]}"
    return ""
