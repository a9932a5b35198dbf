"""Threads and processes that the system does not start: a seccomp profile, or a limit of the container or the user."""

import errno
import resource
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from backupd.errors import ProcessRefused

if TYPE_CHECKING:  # child processes import this
    from collections.abc import Iterator

_NO_THREAD: Final = "can't start new thread"  # CPython's RuntimeError, which keeps no errno
_REFUSED: Final = frozenset((errno.EAGAIN, errno.EPERM, errno.ENOSYS, errno.ENOMEM))  # clone(2), "ERRORS"
_CGROUPS: Final = ("/sys/fs/cgroup", "/sys/fs/cgroup/pids")  # version 2 and 1, as a container sees its own
_NEAR: Final = 4
_PIDS: Final = "raise the limit of processes and threads of the container (docker run --pids-limit 256; 64 is enough)"
_SECCOMP: Final = (
    "let the seccomp profile allow clone3: update Docker (20.10.10 or later) and libseccomp, or docker run "
    "--security-opt seccomp=unconfined"
)


@contextmanager
def process_start_errors() -> "Iterator[None]":
    """Raise ProcessRefused where the system starts no thread or process in the block."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if refused := start_refusal(error):
            raise refused from error
        raise


def start_refusal(error: BaseException) -> ProcessRefused | None:
    """Return `error` with a hint if it means that no thread or process was started; one that names a file does not."""
    if isinstance(error, OSError):
        if error.errno not in _REFUSED or error.filename is not None:
            return None
        why = f" ({error.strerror})" if error.strerror else ""
        return ProcessRefused(f"the system does not start another process or thread{why}", _hint(error.errno))
    if isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        return ProcessRefused("the system does not start another process or thread", _hint(None))
    return None


def _hint(number: int | None) -> str:
    used, limit = _pids()
    if limit and used + _NEAR >= limit:
        return f"{_PIDS}: {used} of {limit} are in use"
    if number in (errno.EPERM, errno.ENOSYS):
        return _SECCOMP
    most, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    user = f", here {most}" if most != resource.RLIM_INFINITY else ""
    limits = f"{_PIDS} or of the user (RLIMIT_NPROC{user}: docker run --ulimit nproc=1024), or give it more memory"
    return limits if number else f"{_SECCOMP}; or {limits}"


def _pids() -> tuple[int, int]:
    """Return how many processes and threads there are and may be in this container, 0 and 0 where it has no limit."""
    for directory in _CGROUPS:
        with suppress(OSError, ValueError):
            numbers = []
            for name in ("current", "max"):
                with open(f"{directory}/pids.{name}", "rb") as stream:
                    numbers.append(int(stream.read()))
            return numbers[0], numbers[1]
    return 0, 0
