"""How this process uses the machine: the priority of its CPU time and disk reads, and its memory."""

import os
from contextlib import suppress
from typing import NamedTuple

# The number of the system call ioprio_set(2), for which there is no function in the C library.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "armv7l": 314, "i686": 289, "ppc64le": 273, "s390x": 282}
_THIS_THREAD = 1, 0
_IDLE_CLASS = 3 << 13
# mallopt(3), malloc.h of the GNU C library.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_BYTES = 32 << 20  # what the library allows


class Priority(NamedTuple):  # no dataclass: to import those takes longer than most checks
    """How much a task yields to the app: `idle_cpu` runs only on idle cores, `idle_io` reads only from an idle disk."""

    idle_cpu: bool = False
    nice: int = 0
    idle_io: bool = False


NORMAL = Priority()


def lower_priority(priority: Priority) -> None:
    """Lower this thread for good to `priority`; where a part of it is forbidden, that part stays as it is.

    A high nice value alone is not enough: the scheduler lets a nice thread finish its slice first, and a commit of the
    app, which wakes several threads of the kernel in turn, waits a slice for each. SCHED_IDLE (sched(7)) is preempted
    at once. The disk's scheduler has to know priorities for `idle_io` to matter (bfq does).
    """
    if priority.nice > os.getpriority(os.PRIO_PROCESS, 0):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, priority.nice)
    if priority.idle_cpu:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    if priority.idle_io:
        _use_idle_disk_only()


def _use_idle_disk_only() -> None:
    import ctypes  # few need it, and a child process imports as little as it can
    import platform

    if platform.machine() in _IOPRIO_SET:
        ctypes.CDLL(None).syscall(_IOPRIO_SET[platform.machine()], *_THIS_THREAD, _IDLE_CLASS)


def tune_malloc() -> None:
    """Tune glibc's malloc: keep freed buffers for the next use instead of returning them to the kernel.

    The process keeps as much memory as it had at most at one time. Another C library is left as it is.
    """
    import ctypes
    import platform

    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _LARGEST_BYTES)
