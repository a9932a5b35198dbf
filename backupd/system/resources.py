"""How this process uses the machine: the priority of its CPU time and disk reads, its memory, and disk space.

Free space is checked before a task and watched during it, so that no app runs out of space because of a backup.
"""

import os
import resource
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from backupd.errors import NoSpace
from backupd.formatting import human_bytes
from backupd.system.fs import known_path
from backupd.system.os_errors import explain_no_inodes, lacks_inodes

if TYPE_CHECKING:  # child processes import this
    from collections.abc import Callable
    from pathlib import Path

# The number of the system call ioprio_set(2), for which there is no function in the C library.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "armv7l": 314, "i686": 289, "ppc64le": 273, "s390x": 282}
_THIS_THREAD = 1, 0
_IDLE_CLASS = 3 << 13
# mallopt(3), malloc.h of the GNU C library.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_BYTES = 32 << 20  # what the library allows
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # version 2 and 1
_NUMBER_BYTES = 64
_LEAST_LIMIT_BYTES = 192 << 20
_MAX_DEFAULT_RESERVE = 1 << 30
_DEFAULT_RESERVE = 0.05


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


def memory_bytes() -> int:
    """Return how much memory this container may have, else this machine has."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _MEMORY_LIMITS:
        with suppress(OSError, ValueError), open(path, "rb") as stream:
            found.append(int(stream.read(_NUMBER_BYTES)))
    return min(found)


def limit_memory(most_bytes: int) -> None:
    """Limit this process to `most_bytes` of memory of its own, and to half of what there is; mapped files are extra.

    What takes more raises MemoryError. Half of very little memory is rounded up to 192 MiB.
    """
    limit = min(most_bytes, max(_LEAST_LIMIT_BYTES, memory_bytes() // 2))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY or soft > limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def memory_limit_bytes() -> int:
    """Return the limit that `limit_memory` has set."""
    return resource.getrlimit(resource.RLIMIT_DATA)[0]


def descriptor_limits() -> tuple[int, int]:
    """Return how many files this process may have open now, and how many if it raises that limit."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (sys.maxsize if limit == resource.RLIM_INFINITY else limit for limit in limits)
    return soft, hard


def allow_descriptors(most: int) -> None:
    """Let this process have `most` files open, or as many as it may."""
    soft, hard = descriptor_limits()
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, hard), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def free_bytes(directory: "Path") -> int:
    """Return how much is free on the file system of `directory` for users other than root."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def total_bytes(directory: "Path") -> int:
    """Return the size of the file system of `directory`. Raises OSError."""
    disk = os.statvfs(directory)
    return disk.f_blocks * disk.f_frsize


def reserve_bytes(directory: "Path", configured: int | None) -> int:
    """Return what must stay free on the file system of `directory`: as configured, else 5 % and at most 1 GiB."""
    if configured is not None:
        return configured
    return min(_MAX_DEFAULT_RESERVE, int(total_bytes(directory) * _DEFAULT_RESERVE))


def require_space(directory: "Path", needed: int, reserve: int, what: str, files: int = 1) -> None:
    """Raise NoSpace where `what` would leave less than `reserve` free, or lacks inodes for `files` new files."""
    if lacks_inodes(directory, files):
        short, hint = explain_no_inodes(directory)
        raise NoSpace(f"{what} cannot begin: {short}", hint)
    free = free_bytes(directory)
    if free - needed >= reserve:
        return
    stay = f" and {human_bytes(reserve)} must stay so" if reserve else ""
    ways = ", move backups_dir to a larger disk, or lower space.reserve" if reserve else " there, or use a larger disk"
    raise NoSpace(
        f"{what} needs {human_bytes(needed)} at {known_path(directory)}, where {human_bytes(free)} are free{stay}",
        f"free space{ways}",
    )


def watching_space(directory: "Path", reserve: int, advance: "Callable[[int], None]") -> "Callable[[int], None]":
    """Return an `advance` that raises NoSpace as soon as less than `reserve` is free."""

    def watched(done_bytes: int) -> None:
        if free_bytes(directory) < reserve:
            raise NoSpace(
                f"less than {human_bytes(reserve)} were left free at {known_path(directory)} during the task",
                "free space, or move backups_dir to a larger disk",
            )
        advance(done_bytes)

    return watched
