"""Run one command as a user that owns nothing, and end every process of that user afterwards; a module of its own.

`python -m backupd.gate.unprivileged OUTPUT` runs as root. It reads a request, one line of JSON, from standard input,
writes what the command prints to the open file OUTPUT, and prints how the command ended as JSON. Once standard input
closes, also because the gate was killed, everything ends at once. Without a command it only ends what is left.

Processes that the command leaves behind, also those that have detached themselves, become children of this process,
which is their subreaper (prctl(2)). All are ended by one kill(-1) of a process that has become the same user: the
kernel lets none of them fork while it is sent (kill(2), `copy_process` in kernel/fork.c).
"""

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HALF_OF_OUTPUT: Final = 5 << 20  # bytes, kept of the beginning and of the end
_PIPE_BYTES: Final = 1 << 16
_PIECES: Final = 16  # that are read before anything else is looked at again
_POLL_MS: Final = 50
_END_S: Final = 30.0
# linux/prctl.h
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER, _SET_NO_NEW_PRIVS = 1, 36, 38
_IPC_RMID: Final = 0  # linux/ipc.h
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells have it


class Request(TypedDict):
    """What to run; without `command`, only what is left of the user ends."""

    user: int  # uid and gid
    command: list[str]
    environ: dict[str, str]
    directory: str
    timeout_s: float
    file_bytes: int  # the longest file that it may write
    processes: int  # and threads, that the user may have


class Ending(TypedDict):
    """How the command ended: an exit code, negative for a signal; None where it was ended for `why`."""

    code: int | None
    why: str  # "", "timeout" or "cancelled"
    survivors: int  # processes that could not be ended


def main(output: int) -> None:
    """Serve one request."""
    os.set_inheritable(output, False)  # noqa: FBT003 - the standard library's signature
    request: Request = json.loads(_line(0))
    _prctl(_SET_CHILD_SUBREAPER, 1)
    ending = Ending(code=None, why="", survivors=_end_all(request["user"]))
    if request["command"] and not ending["survivors"]:
        ending = _run(request, output)
    print(json.dumps(ending), flush=True)  # noqa: T201 - the answer


def _run(request: Request, output: int) -> Ending:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    child = os.fork()
    if not child:
        _become_and_run(request, writing)
    os.close(writing)
    kept = _Output(output)
    code, why = _await_end(child, reading, kept, time.monotonic() + request["timeout_s"])
    survivors = _end_all(request["user"])  # without any, nothing holds the other end of the pipe
    kept.read(reading)  # a pipe holds no more
    kept.write_end()
    return Ending(code=code, why=why, survivors=survivors)


def _await_end(child: int, reading: int, kept: "_Output", deadline: float) -> tuple[int | None, str]:
    poll = select.poll()
    poll.register(0, select.POLLIN)  # and always POLLHUP
    poll.register(reading, select.POLLIN)
    while time.monotonic() < deadline:
        ready = {descriptor for descriptor, _ in poll.poll(_POLL_MS)}
        if reading in ready and not kept.read(reading):
            poll.unregister(reading)  # closed by the command, which may go on without output
        if 0 in ready:
            return None, "cancelled"
        for pid, status in _reaped():
            if pid == child:
                return os.waitstatus_to_exitcode(status), ""
    return None, "timeout"


def _become_and_run(request: Request, output: int) -> NoReturn:
    """Become the user for good, in a child process, and run the command."""
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number, descriptor in enumerate((nothing, output, output)):
            os.dup2(descriptor, number)
        os.closerange(3, 1 << 20)
        _reset_signals()
        os.umask(0o077)
        for what, most in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_FSIZE, request["file_bytes"]),
            (resource.RLIMIT_NPROC, request["processes"]),
        ):
            hard = resource.getrlimit(what)[1]
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(what, (least, least))
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as stream:
            stream.write("1000")  # rather these than the gate
        _become(request["user"])
        _prctl(_SET_PDEATHSIG, signal.SIGKILL)
        os.chdir(request["directory"])
        os.execvpe(request["command"][0], request["command"], request["environ"])  # noqa: S606 - the operator's command
    except OSError as error:
        os.write(2, f"backupd: {request['command'][0]!r} cannot be run: {error.strerror}\n".encode(errors="replace"))
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE)
    except BaseException:  # noqa: BLE001 - whatever it is, this child must not go on as its parent does
        os._exit(NOT_EXECUTABLE)


def _become(user: int) -> None:
    """Become `user` for good, without groups, capabilities and ways to get them. Raises OSError, ValueError."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    _prctl(_SET_NO_NEW_PRIVS, 1)
    if 0 in (*os.getresuid(), *os.getresgid()) or _capabilities():
        raise ValueError("the user has rights of root")


def _capabilities() -> int:
    with open("/proc/self/status", "rb") as stream:
        return sum(int(line.split()[1], 16) for line in stream if line.startswith((b"CapEff:", b"CapPrm:", b"CapAmb:")))


def _reset_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals():
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)


def _end_all(user: int) -> int:
    """Kill every process of `user`, again until none is left, and remove its shared memory.

    Returns how many processes could not be ended.
    """
    give_up = time.monotonic() + _END_S
    while True:
        try:
            _as_user(user, lambda: os.kill(-1, signal.SIGKILL))
        except OSError:  # no process can be started as long as there are so many
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in processes_of(user):
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)
        for _ in _reaped():
            pass
        left = sum(1 for _ in processes_of(user))
        if not left:
            with suppress(OSError):
                _as_user(user, lambda: _remove_shared_memory(user))
        if not left or time.monotonic() >= give_up:
            return left
        time.sleep(_POLL_MS / 1000)


def _as_user(user: int, act: "Callable[[], None]") -> None:
    """Call `act` in a child process that has become `user`, and wait for its end. Raises OSError if none can start."""
    child = os.fork()
    if not child:
        with suppress(BaseException):
            _become(user)  # else a kill of its processes would kill everything
            act()
        os._exit(0)
    with suppress(ChildProcessError):
        os.waitpid(child, 0)


def _remove_shared_memory(user: int) -> None:
    """Remove what `user` has created by sysvipc(7), which outlives its processes, and counts as memory."""
    library = ctypes.CDLL(None)
    remove: dict[str, Callable[[int], object]] = {
        "shm": lambda number: library.shmctl(number, _IPC_RMID, None),
        "sem": lambda number: library.semctl(number, 0, _IPC_RMID),
        "msg": lambda number: library.msgctl(number, _IPC_RMID, None),
    }
    for kind, remove_one in remove.items():
        with suppress(OSError, ValueError), open(f"/proc/sysvipc/{kind}", "rb") as stream:
            creator = next(stream, b"").split().index(b"cuid")  # the owner may have been changed
            for fields in map(bytes.split, stream):
                if int(fields[creator]) == user:
                    remove_one(int(fields[1]))


def processes_of(user: int) -> "Iterator[int]":
    """Yield the processes of `user` that have not ended."""
    for name in os.listdir("/proc"):  # noqa: PTH208 - child processes import little
        if name.isdecimal():
            with suppress(OSError, ValueError), open(f"/proc/{name}/status", "rb") as stream:
                facts = dict(line.split(b":", 1) for line in stream if line.startswith((b"Uid:", b"State:")))
                if user in map(int, facts[b"Uid"].split()) and facts[b"State"].split()[0] not in (b"Z", b"X"):
                    yield int(name)


def _reaped() -> "Iterator[tuple[int, int]]":
    """Yield the children that have ended, also those that were left to this process."""
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found


class _Output:
    """What the command prints: the beginning goes to the file at once, and the end, kept in memory, at the end."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._left = HALF_OF_OUTPUT
        self._end = bytearray()
        self._omitted = 0

    def read(self, reading: int) -> bool:
        """Read what there is; return whether there may be more later."""
        with suppress(BlockingIOError):
            for _ in range(_PIECES):
                piece = os.read(reading, _PIPE_BYTES)
                if not piece:
                    return False
                _write(self._file, piece[: self._left])
                self._end += piece[self._left :]
                self._left -= min(self._left, len(piece))
                if len(self._end) >= 2 * HALF_OF_OUTPUT:
                    self._drop()
        return True

    def write_end(self) -> None:
        """Write the end, and before it how much is missing."""
        self._drop()
        if self._omitted:
            _write(self._file, b"\n[%d bytes left out by backupd]\n" % self._omitted)
        _write(self._file, bytes(self._end))

    def _drop(self) -> None:
        excess = max(0, len(self._end) - HALF_OF_OUTPUT)
        del self._end[:excess]
        self._omitted += excess


def _write(file: int, data: bytes) -> None:
    with suppress(OSError):  # a full disk loses output, and no verdict
        while data:
            data = data[os.write(file, data) :]


def _line(descriptor: int) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n") and (piece := os.read(descriptor, _PIPE_BYTES)):
        line += piece
    return bytes(line)


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(int(sys.argv[1]))
