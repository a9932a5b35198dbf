"""The tests of the app, run on the pushed commit by a user that owns nothing but its own copy of the tree.

They may use the network, all memory of the container and the space that is not reserved, and nothing of the gate: no
descriptor, no variable of its environment, no file that other users cannot read (docs/deploy-guard.md).
"""

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from backupd.errors import BackupdError, GateStepFailed
from backupd.formatting import human_bytes, human_duration, one_line
from backupd.gate.leftovers import remove_files_of
from backupd.gate.model import AppTests
from backupd.gate.source_tree import unpack
from backupd.gate.unprivileged import NOT_FOUND, Ending, Request, processes_of
from backupd.gate.waiting import IsCancelled, pause, require_wanted
from backupd.system.fs import opened
from backupd.system.owners import give
from backupd.system.process import close_input, container_processes, pipe, send, start_module
from backupd.system.resources import free_bytes, require_space, reserve_bytes

RESTORED: Final = "BACKUPD_RESTORED_DATABASE"
_POLL_S: Final = 0.25
_SPACE_S: Final = 1.0
_GRACE_S: Final = 90.0  # in which the process that runs the tests ends all of them
_MOST_PROCESSES, _FEWEST_PROCESSES, _OF_THE_GATE = 1024, 16, 64
_NEEDED: Final = {"CHOWN": 0, "DAC_OVERRIDE": 1, "KILL": 5, "SETGID": 6, "SETUID": 7}  # linux/capability.h
_users: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)


@dataclass(frozen=True, slots=True)
class TestResult:
    """How the tests ended."""

    __test__: ClassVar[bool] = False  # it is none of pytest's

    seconds: float
    exit_code: int | None  # None: see the next ones
    signal: int | None = None
    limit_s: float | None = None  # within which they did not end
    disk: str = ""  # why there was too little space for them
    noexec: str = ""  # the directory of their tree, where no program of it may be executed

    @property
    def passed(self) -> bool:
        """Whether they passed."""
        return self.exit_code == 0

    def __str__(self) -> str:
        """Return it in a line."""
        if self.limit_s is not None:
            return f"the tests did not end within {human_duration(self.limit_s)}"
        if self.disk:
            return f"the tests were ended: {self.disk}"
        took = f"after {human_duration(self.seconds)}"
        if self.signal is not None:
            return f"the tests were killed by {_signal_name(self.signal)} {took}"
        return f"the tests passed {took}" if self.passed else f"the tests failed with exit code {self.exit_code} {took}"

    @property
    def hint(self) -> str:
        """What to do about it, empty where they passed."""
        noexec = f"{self.noexec} is mounted noexec: if they run programs of the tree, mount it with exec (/tmp:exec)"
        ways = (
            (self.passed, ""),
            (self.limit_s is not None, "read their output: a test may wait for something; or raise test_timeout_s"),
            (self.disk, "change them to write less, or give the gate a larger disk"),
            (self.noexec, noexec),
            (
                self.signal == signal.SIGKILL,
                "the container may lack memory: give it more, or run fewer tests at a time",
            ),
            (self.signal == signal.SIGXFSZ, "a file became too long for the disk: let the tests write less"),
            (self.exit_code == NOT_FOUND, "the image of the gate may lack the program: see docs/deploy-guard.md"),
            (True, "read their output, mend the app, and push again"),
        )
        return next(hint for applies, hint in ways if applies)


def run_tests(
    tests: AppTests, tree_tar: Path, database: Path | None, output: Path, cancelled: IsCancelled
) -> TestResult:
    """Run the tests on a copy of the tree, with one of `database` if given; write what they print to the new `output`.

    Afterwards no process and no file of theirs is left, in every case. Raises GateStepFailed where they cannot be run,
    NoSpace, ProcessRefused, Cancelled.
    """
    require_rights(tests.user)
    with _belonging_to(tests.user, cancelled), _work_directory(tests.user) as work:
        needed = tree_tar.stat().st_size + (database.stat().st_size if database else 0)
        reserve = reserve_bytes(work, None)
        require_space(work, needed, reserve, "the tests")
        environ = _prepare(tests.user, work, tree_tar, database)
        require_wanted(cancelled)
        request = Request(
            user=tests.user,
            command=list(tests.command),
            environ=environ,
            directory=os.fspath(work / "tree"),
            timeout_s=tests.timeout_s,
            file_bytes=max(1 << 20, free_bytes(work) - reserve),
            processes=_most_processes(),
        )
        noexec = bool(os.statvfs(work).f_flag & os.ST_NOEXEC)
        began = time.monotonic()
        ending, disk = _run(request, output, cancelled, _reserves(work, reserve))
        seconds = time.monotonic() - began
    require_wanted(cancelled)
    code = ending["code"]
    return TestResult(
        seconds,
        exit_code=code if code is not None and code >= 0 else None,
        signal=-code if code is not None and code < 0 else None,
        limit_s=tests.timeout_s if ending["why"] == "timeout" else None,
        disk=disk,
        noexec=os.fspath(work.parent) if noexec else "",
    )


def require_rights(user: int) -> None:
    """Raise GateStepFailed where this process may not run tests as `user`."""
    if user == 0 or user in os.getresuid():
        raise GateStepFailed(f"tests may not run as uid {user}, to which the gate belongs", "set another test_user")
    has = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            has = int(line.split()[1], 16)
    missing = [f"CAP_{name}" for name, bit in _NEEDED.items() if not has >> bit & 1]
    if missing:
        raise GateStepFailed(
            f"the gate may not run tests as another user: it lacks {', '.join(missing)}",
            "run its container as root with these capabilities (cap_add), or use wait_for_status in place of tests",
        )


def _most_processes() -> int:
    """Return how many processes and threads tests may have: the gate needs some of those of the container."""
    used, limit = container_processes()
    return max(_FEWEST_PROCESSES, min(_MOST_PROCESSES, limit - used - _OF_THE_GATE)) if limit else _MOST_PROCESSES


@contextmanager
def _belonging_to(user: int, cancelled: IsCancelled) -> Iterator[None]:
    """Lend a user to one gate at a time: all its processes are ended afterwards. Raises Cancelled."""
    lock = _users[user]
    while not lock.acquire(blocking=False):
        pause(_POLL_S, cancelled)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _work_directory(user: int) -> Iterator[Path]:
    """Lend a directory through which `user` may pass, before and after which nothing else of `user` is left."""
    end_leftovers(user)
    try:
        work = Path(tempfile.mkdtemp(prefix=_prefix(user)))
        work.chmod(0o711)
        yield work
    finally:
        remove_files_of(user, _prefix(user))


def end_leftovers(user: int) -> None:
    """End processes and remove files of `user`, which are of tests whose gate was killed.

    Raises GateStepFailed, ProcessRefused.
    """
    _end_processes(user)
    remove_files_of(user, _prefix(user))


def _prefix(user: int) -> str:
    return f"backupd-tests-{user}-"


def _end_processes(user: int) -> None:
    if any(processes_of(user)):
        none = Request(user=user, command=[], environ={}, directory="/", timeout_s=0.0, file_bytes=0, processes=0)
        with opened(os.devnull, os.O_WRONLY) as nothing:
            ending = _ended(_started(none, nothing))
        if ending is None or ending["survivors"]:
            raise _cannot(user, "processes of the tests cannot be ended")


def _prepare(user: int, work: Path, tree_tar: Path, database: Path | None) -> dict[str, str]:
    """Give the user its tree, a home, a place for temporary files and a copy of `database`; return its environment."""
    for name in ("tree", "home", "tmp", "database"):
        (work / name).mkdir(mode=0o700)
        _give(work / name, user)
    unpack(tree_tar, work / "tree", user)
    environ = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.fspath(work / "home"),
        "TMPDIR": os.fspath(work / "tmp"),
        "LANG": "C.UTF-8",
        "CI": "true",
    }
    if database is not None:
        copy = work / "database" / database.name
        shutil.copyfile(database, copy)
        copy.chmod(0o600)
        _give(copy, user)
        environ[RESTORED] = os.fspath(copy)
    return environ


def _give(path: Path, user: int) -> None:
    try:
        give(path, user)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise GateStepFailed(
                f"tests cannot run as uid {user}, which this container does not have", "set another test_user"
            ) from error
        raise


def _reserves(work: Path, reserve: int) -> dict[Path, int]:
    """Return how much must stay free in which places: in `work`, and on the disk of the container itself.

    That has other places where the tests may write (/var/tmp), unless it is read-only. It does not count where it has
    less already.
    """
    root = Path("/")
    of_root, is_fixed = reserve_bytes(root, None), os.statvfs(root).f_flag & os.ST_RDONLY
    return {work.parent: reserve} | ({root: of_root} if free_bytes(root) > of_root and not is_fixed else {})


def _too_full(reserves: Mapping[Path, int]) -> str:
    """Return why the tests must end, empty while there is space."""
    least = min((free for place, reserve in reserves.items() if (free := free_bytes(place)) < reserve), default=None)
    return "" if least is None else f"they left only {human_bytes(least)} of the disk free"


def _run(request: Request, output: Path, cancelled: IsCancelled, reserves: Mapping[Path, int]) -> tuple[Ending, str]:
    """Run the request in a process of its own; return how it ended, and whether the disk was full."""
    with opened_new(output) as descriptor:
        process, disk = _started(request, descriptor), ""
        try:
            give_up, look_at = time.monotonic() + request["timeout_s"] + _GRACE_S, 0.0
            while not (_has_answer(process) or disk or cancelled()) and time.monotonic() < give_up:
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + _SPACE_S
                    disk = _too_full(reserves)
        finally:
            ending = _ended(process)
    if ending is None:
        _end_processes(request["user"])
        raise _cannot(request["user"], "the process that runs the tests was killed: their result is unknown")
    if ending["survivors"]:
        raise _cannot(request["user"], f"{ending['survivors']} processes of the tests cannot be ended")
    return ending, disk


def _started(request: Request, output: int) -> "subprocess.Popen[bytes]":
    process = start_module(
        "backupd.gate.unprivileged",
        str(output),
        directory="/",
        environ={"PATH": os.environ.get("PATH", os.defpath)},
        stderr=subprocess.DEVNULL,
        descriptors=(output,),
    )
    send(process, json.dumps(request).encode() + b"\n")
    return process


def _has_answer(process: "subprocess.Popen[bytes]", within_s: float = _POLL_S) -> bool:
    return bool(select.select([pipe(process.stdout)], [], [], within_s)[0])


def _ended(process: "subprocess.Popen[bytes]") -> Ending | None:
    """End what the process has started, and return its answer; None where it has none."""
    close_input(process)
    if not _has_answer(process, _GRACE_S):
        process.kill()
    with process, suppress(ValueError):
        found: Any = json.loads(pipe(process.stdout).read())
        ending: Ending = found
        return ending
    return None


def _cannot(user: int, what: str) -> BackupdError:
    return GateStepFailed(f"{what} (uid {user})", "restart the gate; if it happens again, look at the log of the host")


@contextmanager
def opened_new(path: Path) -> Iterator[int]:
    """Open the new file `path` for the block, which only root may read; yields its descriptor."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return one_line(f"signal {number}")
