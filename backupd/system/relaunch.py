"""Starts this command again in the same process: environment and memory of before are gone (execve(2)).

The kernel shows the environment that a process began with to every process that may read /proc/PID/environ, for as long
as it runs, and to the process itself by any link to /proc/self/environ; nothing but a new start removes it. What the
command still has to know goes through a file in memory, which is empty once it is read, also where another process
keeps it open.

A first process of a container (PID 1) starts tini in its place, with the command as its child: tini reaps what is left
behind and passes signals on, and has the clean environment too.
"""

import os
import signal
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final, NoReturn

from backupd.system.signals import ENDS

HANDED_OVER: Final = "_BACKUPD_HANDED_OVER"  # the descriptor; not a setting, which would begin with BACKUPD_
_INIT: Final = "/usr/bin/tini"
_MOST_BYTES: Final = 1 << 24


def is_first_process() -> bool:
    """Tell whether this is the first process of a container: it should start again below tini."""
    return os.getpid() == 1


def relaunch(handed_over: bytes, environ: Mapping[str, str], descriptors: Iterable[int] = ()) -> NoReturn:
    """Run this command again with `environ`; `take_handed_over` returns the bytes there, `descriptors` stay open.

    A signal that arrives during that waits for `exit_on_signals` there. Raises OSError where that cannot be done;
    nothing has changed.
    """
    memory = os.memfd_create("handed-over", 0)
    try:
        with open(memory, "wb", closefd=False) as stream:
            stream.write(handed_over)
        os.lseek(memory, 0, os.SEEK_SET)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - the standard library's signature
        command = [sys.executable, "-P", "-m", "backupd", *sys.argv[1:]]  # -P: import nothing from the directory
        if is_first_process() and os.access(_INIT, os.X_OK):
            command = [_INIT, "--", *command]
        sys.stdout.flush()
        sys.stderr.flush()
        held = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        try:
            os.execve(command[0], command, {**environ, HANDED_OVER: str(memory)})  # noqa: S606 - this very command
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
    finally:
        os.close(memory)


def take_handed_over() -> bytes | None:
    """Return what `relaunch` handed over to this process, once; `None` where it was started otherwise."""
    number = os.environ.pop(HANDED_OVER, "")
    if not number.isdecimal():
        return None
    with suppress(OSError), open(int(number), "r+b") as memory:
        data = memory.read(_MOST_BYTES)
        memory.truncate(0)  # tini keeps it open
        return data
    return None
