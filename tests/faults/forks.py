"""A fork of the test that ends itself before its Nth change, as by a kill, or gets an error there.

Where a command as an operator starts it is not needed, this costs some milliseconds.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

from backupd.errors import BackupdError

CHANGES = frozenset({"mkdir", "write", "rename", "link", "unlink", "rmdir", "utime"})
BY_CTYPES = "_renameat2"  # the function that makes that system call
WITH_FSYNC = CHANGES | {"fsync"}  # a kill before it leaves what one after it leaves


@dataclass
class Fault:
    """In this process: before change number `at` the process is killed, or the change fails with an `error`."""

    at: int
    error: int
    changes: frozenset[str]
    calls: int = 0

    def watch(self, frame: FrameType, event: str, function: object) -> None:
        """See sys.setprofile."""
        name = getattr(function, "__name__", "") if event == "c_call" else frame.f_code.co_name
        if name not in self.changes or not (event == "c_call" or (event == "call" and name == BY_CTYPES)):
            return
        self.calls += 1
        if self.calls == self.at:
            if not self.error:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self.error, os.strerror(self.error))


def hit(action: Callable[[], object], at: int, error: int, changes: frozenset[str] | None = None) -> bool:
    """Do `action` in a fork with a fault at change number `at`; return whether there was such a change."""
    child = os.fork()
    if not child:
        fault = Fault(at, error, changes or (WITH_FSYNC if error else CHANGES))
        with suppress(BackupdError, OSError):
            sys.setprofile(fault.watch)
            action()
        sys.setprofile(None)
        os._exit(1 if fault.calls >= at else 0)
    _, status = os.waitpid(child, 0)
    return status != 0
