"""A process that forks runs of `backupd`, which saves the half second of imports that each run begins with.

The fork server has made one backup before it forks, since half of the work of a short run happens once per process:
classes are mapped, validators built, patterns compiled. Apart from that a run is what an operator starts: a process
with arguments, an environment and a working directory.
It can be killed just before its N-th step (see `support.steps`).
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
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn, Self

import backupd
from backupd.system.relaunch import HANDED_OVER
from support.rights import Rights, as_after_execve
from support.steps import count_steps

_OTHER_PROCESSES = ("backupd.sqlite.worker", "backupd.notifications.apprise")
COVERAGE_CONFIG = "COVERAGE_PROCESS_CONFIG"  # read by coverage at the start of each process
FORK_COVERAGE_CONFIG = "COVERAGE_OF_FORKS"  # likewise, for the fork server and its forks, but not for their children
_STOPPED = b"stopped\n"
_SERVE = "import sys; sys.path.insert(0, sys.argv[1]); from support.fork_server import serve; serve()"


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


def measured() -> dict[str, str]:
    """Return what has to be in the environment of a process so that it is measured, if it is to be."""
    return {name: value for name, value in os.environ.items() if name == COVERAGE_CONFIG}


class ForkServer:
    """A fork server; forks one run at a time.

    Its runs are not measured unless coverage is `measured`.
    """

    def __init__(self, scratch: Path, *, measured: bool = True) -> None:
        scratch.mkdir(exist_ok=True)
        self._files = {name: scratch / name for name in ("out", "err", "steps")}
        self._run: ForkedRun | None = None
        environ = {key: value for key, value in os.environ.items() if key != COVERAGE_CONFIG}
        config = os.environ.get(FORK_COVERAGE_CONFIG) or os.environ.get(COVERAGE_CONFIG)
        self._process = subprocess.Popen(
            [sys.executable, "-BPc", _SERVE, str(Path(__file__).parents[1])],
            env={**environ, COVERAGE_CONFIG: config} if measured and config else environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # a run may end before its beginning is read: its end has to stay where select(2) sees it
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
        watch: Callable[[], object] | None = None,
        **how: Any,
    ) -> CommandResult:
        """Run `backupd ARGUMENTS` in `cwd` to its end; for the rest see `start`.

        It is stopped before each of its steps to call `watch`.
        """
        if watch is None:
            return self.result(self.start(arguments, environ, cwd, **how))
        run = self.start(arguments, environ, cwd, **how, watched=True)
        while (answer := run.ended.readline()) == _STOPPED:
            watch()
            self._tell("")
        run.returncode = int(answer)
        return self.result(run)

    def result(self, run: "ForkedRun") -> CommandResult:
        """Wait for the end of a run, and return what became of it."""
        code = run.wait()
        out, err, steps = (path.read_text() for path in self._files.values())
        assert "Traceback" not in err, err
        return CommandResult(code, out, err, tuple(steps.splitlines()))

    def start(
        self,
        arguments: Sequence[str | Path],
        environ: Mapping[str, str],
        cwd: Path,
        *,
        at: int | None = None,
        send: signal.Signals = signal.SIGKILL,
        again: bool = False,
        watched: bool = False,
        after_s: float | None = None,
        counted: bool = False,
        reads: str = "",
        rights: Rights | None = None,
        enter: Callable[[], None] | None = None,
        strace: Sequence[str | Path] = (),
        output: Path | None = None,
        terminal: str | None = None,
    ) -> "ForkedRun":
        """Begin `backupd ARGUMENTS` in `cwd`, with `rights`; `send` it a signal before its step `at`, or `after_s`.

        It first calls `enter`, a function of a module in tests/support, which takes it to a namespace of its own.
        With `again`, the signal is sent before each later step as well. If `watched`, it is stopped before each step,
        which is reported, until it is answered by an empty line. Steps are `counted` on demand, and where `at`
        is given; with `reads`, files and attributes that are read are steps too, where that text is in their name.
        With `strace`, strace(1) traces the run from its beginning, with these arguments.
        Coverage measures the run, and its children only if the test asks for that. A daemon is what has a file for its
        `output`: its children are measured, and it restarts by a real execve(2). The standard streams of a run on a
        `terminal` are that device.
        """
        if watched:
            at, send, again = 0, signal.SIGSTOP, True
        request = {
            "arguments": [*map(str, arguments)],
            "environ": {
                key: environ[key]
                for key in environ
                if key != COVERAGE_CONFIG or output or FORK_COVERAGE_CONFIG not in environ
            },
            "cwd": str(cwd),
            "at": at,
            "signal": int(send),
            "again": again,
            "watched": watched,
            "after_s": after_s,
            "counted": counted or at is not None,
            "reads": reads,
            "rights": rights and asdict(rights),
            "enter": enter and (enter.__module__, enter.__name__),
            "daemon": output is not None,
            "strace": [*map(str, strace)],
            **{name: str(path) for name, path in self._files.items()},
            "in": terminal or os.devnull,
            **(dict.fromkeys(("out", "err"), str(output or terminal)) if output or terminal else {}),
        }
        assert self._process.stdout is not None
        self._tell(json.dumps(request))
        self._run = ForkedRun(int(self._process.stdout.readline()), self._process.stdout)
        return self._run

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def is_free(self) -> bool:
        """Tell whether it can begin a run: the last one has ended."""
        return self._run is None or self._run.poll() is not None


@dataclass
class ForkedRun:
    """A process of a fork server, with what tests need of subprocess.Popen; `returncode` is None while it runs."""

    pid: int
    ended: IO[bytes]
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return its exit code, `None` while it runs."""
        if self.returncode is None and select.select([self.ended], [], [], 0)[0]:
            self.returncode = int(self.ended.readline())
        return self.returncode

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end, and return its exit code. Raises AssertionError after `timeout_s`."""
        if self.returncode is None:
            select.select([self.ended], [], [], timeout_s)
        code = self.poll()
        assert code is not None, f"it did not end within {timeout_s} s"
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def serve() -> None:
    """Fork a run for each request on stdin; reply with its id, and with its exit code, negative for a signal."""
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
            print(process, flush=True)
            if request["after_s"] is not None and not _has_ended(process, request["after_s"]):
                os.kill(process, request["signal"])
            status = _wait(process, watched=request["watched"])
        print(os.waitstatus_to_exitcode(status), flush=True)


def _wait(process: int, *, watched: bool) -> int:
    """Wait for the end of a run and return its status; report and continue one that is `watched` when it is stopped."""
    while True:
        _, status = os.waitpid(process, os.WUNTRACED if watched else 0)
        if not os.WIFSTOPPED(status):
            return status
        print(_STOPPED.decode(), end="", flush=True)
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

    os.dup2(os.open(request["in"], os.O_RDONLY | os.O_NOCTTY), 0)
    steps = os.open(request["steps"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOCTTY), number)
    # Those of the template know whether it was on a terminal or a file.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    os.chdir(request["cwd"])
    if request["enter"]:
        module, function = request["enter"]
        getattr(import_module(module), function)()
    if request["rights"]:
        Rights(**request["rights"]).assume()
    os.environ.clear()
    os.environ.update(request["environ"])
    time.tzset()
    sys.argv = ["backupd", *request["arguments"]]
    if request["counted"]:
        count_steps(steps, request)
    _leave(main if request["daemon"] else lambda: _run(main))


def _run(main: Callable[[], None]) -> None:
    """Run `main`, and once more if it restarts; its steps are counted on."""
    try:
        with noticed():
            main()
    except StartedAgain as again:
        as_after_execve()
        os.environ.clear()
        os.environ.update(again.environ)
        sys.argv = ["backupd", *again.arguments]
        main()


def _leave(main: Callable[[], None]) -> NoReturn:
    """Run `main` and exit as the interpreter would, but for taking the template's modules apart, which takes long."""
    code: object = 0
    try:
        main()
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
