"""Step aside for the app: work that can wait runs on cores that nobody else wants."""

import os
from contextlib import suppress


def give_way() -> None:
    """Let this thread run only when a core would be idle (SCHED_IDLE, sched(7)); others preempt it at once.

    A high nice value is not enough: the scheduler lets a nice thread finish its slice first, and a commit of the app,
    which wakes several threads of the kernel in turn, waits a slice for each. Where that is forbidden nothing changes.
    """
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
