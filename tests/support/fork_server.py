"""A process that forks runs of `backupd`, which saves the half second of imports that each run begins with.

The fork server has made one backup before it forks, since half of the work of a short run happens once per process:
classes are mapped, validators built, patterns compiled. Apart from that a run is what an operator starts: a process
with arguments, an environment and a working directory.
It can be killed just before its N-th *step*. A step is any visible effect: a file opened for writing, a rename, a
write, an fsync, a process started, a request over SFTP. Python reports each beforehand, by audit events (PEP 578) and
by its profiler, so production code contains nothing for it.

Run as `python fork_server.py`, this file is the fork server itself.
"""

import atexit
import gc
import json
import os
import pkgutil
import select
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, NoReturn, Self

from paramiko.sftp import CMD_EXTENDED, CMD_NAMES
from paramiko.util import asbytes

import backupd
from backupd.system.relaunch import HANDED_OVER

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
_OTHER_PROCESSES = ("backupd.daemon", "backupd.sqlite.worker", "backupd.notifications.apprise")
COVERAGE_CONFIG = "COVERAGE_PROCESS_CONFIG"  # read by coverage at the start of each process
FORK_COVERAGE_CONFIG = "COVERAGE_OF_FORKS"  # likewise, for the fork server and its forks, but not for their children
_STOPPED = "stopped\n"
_WRITABLE = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class CommandResult:
    """Exit code (negative: the signal that ended it), standard output and error, and the steps that were taken."""

    code: int
    out: str
    err: str
    steps: tuple[str, ...] = ()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a run, without `BACKUPD_*` variables of the outside.

    Runs have normal priority: with the low one of the default they would starve beside other tests.
    """
    outside = {key: value for key, value in os.environ.items() if not key.startswith("BACKUPD_")}
    return {**outside, "BACKUPD_PACK__PRIORITY": "normal", **environ}


class StartedAgain(BaseException):
    """A run without its own process restarts, as by execve(2).

    What it has open stays open for as long as this exception is kept.
    """

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        super().__init__()
        self.arguments, self.environ = tuple(arguments), dict(environ)


@contextmanager
def noticed() -> Iterator[None]:
    """Raise StartedAgain where a run in the block would restart."""
    execve = os.execve
    os.execve = _execve
    try:
        yield
    finally:
        os.execve = execve


def _execve(_program: str, command: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    kept = str(os.dup(int(environ[HANDED_OVER])))  # whoever would start anew closes its own on the way out
    raise StartedAgain(command[4:], {**environ, HANDED_OVER: kept})  # after `python -P -m backupd`


class ForkServer:
    """A fork server; forks one run at a time."""

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(exist_ok=True)
        self._files = {name: scratch / name for name in ("out", "err", "steps")}
        self._process = subprocess.Popen(
            [sys.executable, "-B", __file__],
            env={**os.environ, COVERAGE_CONFIG: os.environ[FORK_COVERAGE_CONFIG]}
            if FORK_COVERAGE_CONFIG in os.environ
            else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with self._process:  # it ends when its standard input is closed
            pass

    def run(
        self,
        arguments: Sequence[str | Path],
        environ: Mapping[str, str],
        cwd: Path,
        *,
        at: int | None = None,
        send: signal.Signals = signal.SIGKILL,
        again: bool = False,
        after_s: float | None = None,
        counted: bool = False,
        reads: str = "",
        strace: Sequence[str | Path] = (),
        watch: Callable[[], object] | None = None,
    ) -> CommandResult:
        """Run `backupd ARGUMENTS` in `cwd`; `send` it a signal before its step `at`, or `after_s`.

        With `again`, the signal is sent before each later step as well. Steps are `counted` on demand, and where `at`
        is given; with `reads`, files and attributes that are read are steps too, where that text is in their name.
        With `strace`, strace(1) traces the run from its beginning, with these arguments. The run is stopped before each
        step to call `watch`.
        Coverage measures the run, and its children only if the test asks for that.
        """
        if watch is not None:
            at, send, again = 0, signal.SIGSTOP, True
        request = {
            "arguments": [*map(str, arguments)],
            "environ": {
                key: environ[key] for key in environ if key != COVERAGE_CONFIG or FORK_COVERAGE_CONFIG not in environ
            },
            "cwd": str(cwd),
            "at": at,
            "signal": int(send),
            "again": again,
            "after_s": after_s,
            "counted": counted or at is not None,
            "watched": watch is not None,
            "reads": reads,
            "strace": [*map(str, strace)],
            **{name: str(path) for name, path in self._files.items()},
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        while (answer := self._process.stdout.readline()) == _STOPPED:
            assert watch is not None
            watch()
            print(file=self._process.stdin, flush=True)
        out, err, steps = (path.read_text() for path in self._files.values())
        assert "Traceback" not in err, err
        return CommandResult(int(answer), out, err, tuple(steps.splitlines()))


def _serve() -> None:
    """Fork a run for each request on stdin; reply with its exit code, negative for a signal."""
    _import_all()
    _warm_up()
    _flush_coverage()
    gc.freeze()  # memory shared with the forks is not written to
    for line in sys.stdin:
        request = json.loads(line)
        ready, go = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(go)
            select.select([ready], [], [])
            os.close(ready)
            _become(request)
        with _tracer(process, request["strace"]):
            os.close(go)
            os.close(ready)
            if request["after_s"] is not None and not _has_ended(process, request["after_s"]):
                os.kill(process, request["signal"])
            status = _wait(process, watched=request["watched"])
        print(os.waitstatus_to_exitcode(status), flush=True)


def _wait(process: int, *, watched: bool) -> int:
    """Wait for the end of a run and return its status; let the tester look whenever it has stopped itself."""
    while True:
        _, status = os.waitpid(process, os.WUNTRACED if watched else 0)
        if not os.WIFSTOPPED(status):
            return status
        print(_STOPPED, end="", flush=True)
        sys.stdin.readline()
        os.kill(process, signal.SIGCONT)


@contextmanager
def _tracer(process: int, arguments: Sequence[str]) -> Iterator[None]:
    """Let strace(1) trace a process during the block, in which it ends."""
    if not arguments:
        yield
        return
    command = ["strace", *arguments, f"--attach={process}"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        assert "attached" in said, said
        yield
        tracer.communicate()


def _has_ended(process: int, within_s: float) -> bool:
    descriptor = os.pidfd_open(process)
    try:
        return bool(select.select([descriptor], [], [], within_s)[0])
    finally:
        os.close(descriptor)


def _import_all() -> None:
    """Import the modules that runs import lazily, while there is one thread."""
    for module in pkgutil.walk_packages(backupd.__path__, "backupd."):
        if not module.name.startswith(_OTHER_PROCESSES):
            import_module(module.name)


def _warm_up() -> None:
    """Run two commands; afterwards there is again one thread, no signal handler and no open file."""
    from backupd.__main__ import main

    files = len([*Path("/proc/self/fd").iterdir()])
    caught = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    outside, arguments = dict(os.environ), sys.argv
    with tempfile.TemporaryDirectory() as name, _silence():
        with closing(sqlite3.connect(f"{name}/tasks.db")) as app:
            app.execute("CREATE TABLE task(id INTEGER PRIMARY KEY)")
        settings = {"DATABASE": f"{name}/tasks.db", "BACKUPS_DIR": f"{name}/backups", "SPACE__RESERVE": "0"}
        os.environ.update(environment({f"BACKUPD_{key}": value for key, value in settings.items()}))
        for command in ("backup", "list"):
            sys.argv = ["backupd", command]
            with suppress(SystemExit):
                main()
        assert [*Path(name, "backups").glob("*.gz")]
    os.environ.clear()
    os.environ.update(outside)
    sys.argv, tempfile.tempdir = arguments, None
    for number, handler in caught.items():
        signal.signal(number, handler)
    gc.collect()
    assert threading.active_count() == 1
    assert len([*Path("/proc/self/fd").iterdir()]) == files


def _flush_coverage() -> None:
    """Write what was covered so far: each fork would have it in memory, and write it once more when it ends."""
    if COVERAGE_CONFIG in os.environ:
        from coverage import Coverage

        measured = Coverage.current()
        assert measured is not None
        measured.get_data()


@contextmanager
def _silence() -> Iterator[None]:
    """Discard standard output during the block: it carries replies only."""
    out, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(out, 1)
        os.close(out)
        os.close(null)


def _become(request: dict[str, Any]) -> NoReturn:
    """Be the run: `backupd.__main__.main()`, in an environment of its own and with its steps counted."""
    from backupd.__main__ import main

    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    steps = os.open(request["steps"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environ"])
    time.tzset()
    sys.argv = ["backupd", *request["arguments"]]
    if request["counted"]:
        _count_steps(steps, request)
    _leave(main)


def _count_steps(journal: int, request: Mapping[str, Any]) -> None:
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
        elif event == "call" and frame.f_code.co_name == "_async_request":
            kind, (first, *_) = frame.f_locals["t"], frame.f_locals["args"]
            name = asbytes(first).decode() if kind == CMD_EXTENDED else CMD_NAMES[kind]
            step(f"sftp {name}")

    sys.addaudithook(audit)  # noqa: TID251 - in a fork, which is one run


def _run(main: Callable[[], None]) -> None:
    """Run `main`, and once more if it restarts; its steps are counted on."""
    try:
        with noticed():
            main()
    except StartedAgain as again:
        os.environ.clear()
        os.environ.update(again.environ)
        sys.argv = ["backupd", *again.arguments]
        main()


def _leave(main: Callable[[], None]) -> NoReturn:
    """Run `main` and exit as the interpreter would, but for taking the template's modules apart, which takes long."""
    code: object = 0
    try:
        _run(main)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001 - told and turned into an exit code, as the interpreter does
        traceback.print_exc()
        code = 1
    sys.setprofile(None)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve()
