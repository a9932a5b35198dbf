"""Child processes that run a module of backupd and end with their parent; and processes that do not start.

`python -m backupd.system.process COMMAND...` runs a command, and kills its process group when its own standard input
closes, also because the parent was killed. It prints on standard output how the command ended; what that started runs
on until then. The output of the command goes to standard error.
"""

import errno
import os
import resource
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from backupd.errors import ProcessRefused

if TYPE_CHECKING:  # child processes import this
    import subprocess
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import IO

_NO_THREAD: Final = "can't start new thread"  # CPython's RuntimeError, which keeps no errno
_REFUSED: Final = frozenset((errno.EAGAIN, errno.EPERM, errno.ENOSYS, errno.ENOMEM))  # clone(2), "ERRORS"
_CGROUPS: Final = ("/sys/fs/cgroup", "/sys/fs/cgroup/pids")  # version 2 and 1, as a container sees its own
_NEAR: Final = 4
_PREFIX: Final = "BACKUPD_"
_PIDS: Final = "raise the limit of processes and threads of the container (docker run --pids-limit 256; 64 is enough)"
_SECCOMP: Final = (
    "let the seccomp profile allow clone3: update Docker (20.10.10 or later) and libseccomp, or docker run "
    "--security-opt seccomp=unconfined"
)


def start_module(
    module: str,
    *arguments: str,
    directory: "Path | str | None" = None,
    environ: "Mapping[str, str] | None" = None,
    stdout: "int | None" = -1,
    stderr: "int | IO[bytes] | None" = None,
    descriptors: "Iterable[int]" = (),
) -> "subprocess.Popen[bytes]":
    """Start `python -m MODULE ARGUMENTS` in a session of its own, whose Ctrl-C is then this process's to handle.

    Its standard input is a pipe that closes when this process ends (see `call_when_parent_ends`), and by default its
    standard output is one too; of other files it has only `descriptors` open. Raises ProcessRefused, OSError.
    """
    import subprocess  # child processes import this module

    command = [sys.executable, "-P", "-m", module, *arguments]  # -P: import nothing from `directory`
    with process_start_errors():
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            cwd=directory,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=tuple(descriptors),
        )


def environment_without(secrets: frozenset[str], environ: "Mapping[str, str]") -> dict[str, str]:
    """Return `environ` without variables of backupd, and without any that has one of `secrets` as its value."""
    return {
        name: value
        for name, value in environ.items()
        if not name.upper().startswith(_PREFIX) and value.strip() not in secrets
    }


def pipe(stream: "IO[bytes] | None") -> "IO[bytes]":
    """Return the end of a pipe to a child process, for the type checker."""
    assert stream is not None  # noqa: S101 - it was opened as a pipe
    return stream


def send(process: "subprocess.Popen[bytes]", data: bytes) -> None:
    """Write `data` to the standard input of a child; if it has died already, its exit code tells why."""
    with suppress(BrokenPipeError):
        pipe(process.stdin).write(data)
        pipe(process.stdin).flush()


def close_input(process: "subprocess.Popen[bytes]") -> None:
    """Close the standard input of a child, which takes that for the end of its parent."""
    with suppress(BrokenPipeError):
        pipe(process.stdin).close()


def call_when_parent_ends(action: "Callable[[], object]", on_line: "Callable[[bytes], object]" = len) -> None:
    """Call `action` in a thread when standard input closes: the parent has ended. Raises ProcessRefused.

    Until then `on_line` is called there with each further line of it.
    """
    import threading

    def wait() -> None:
        with open(0, "rb", closefd=False) as lines:
            for line in lines:
                on_line(line)
        action()

    with process_start_errors():
        threading.Thread(target=wait, daemon=True).start()


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
    used, limit = container_processes()
    if limit and used + _NEAR >= limit:
        return f"{_PIDS}: {used} of {limit} are in use"
    if number in (errno.EPERM, errno.ENOSYS):
        return _SECCOMP
    most, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    user = f", here {most}" if most != resource.RLIM_INFINITY else ""
    limits = f"{_PIDS} or of the user (RLIMIT_NPROC{user}: docker run --ulimit nproc=1024), or give it more memory"
    return limits if number else f"{_SECCOMP}; or {limits}"


def container_processes() -> tuple[int, int]:
    """Return how many processes and threads there are and may be in this container, 0 and 0 where it has no limit."""
    for directory in _CGROUPS:
        with suppress(OSError, ValueError):
            numbers = []
            for name in ("current", "max"):
                with open(f"{directory}/pids.{name}", "rb") as stream:
                    numbers.append(int(stream.read()))
            return numbers[0], numbers[1]
    return 0, 0


def main(command: list[str]) -> None:
    """Run `command`, and print `exit N`, N negative for a signal, or `error WHY` where it cannot be run."""
    import subprocess
    import threading

    try:
        process = subprocess.Popen(  # noqa: S603 - what the operator's configuration asks for
            command, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr, start_new_session=True
        )
    except (OSError, ValueError) as error:
        print(f"error {getattr(error, 'strerror', None) or error}", flush=True)  # noqa: T201 - the answer to the parent
        return
    try:
        threading.Thread(target=_report_end, args=(process.pid,), daemon=True).start()
        os.read(0, 1)
    except RuntimeError as error:  # no thread can be started
        print(f"error {error}", flush=True)  # noqa: T201 - the answer to the parent
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _report_end(process: int) -> None:
    """Wait for the end of the command, and leave it a zombie, so that the id of its group is not used again."""
    with suppress(ChildProcessError):  # standard input has closed, and `main` is ending with all that it started
        ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        if ended is not None:
            status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            print(f"exit {status}", flush=True)  # noqa: T201 - the answer to the parent


if __name__ == "__main__":
    main(sys.argv[1:])
