"""Kill, starve and signal real `backupd` processes at chosen steps, and look at what they leave behind.

A *step* is anything the process does to the outside: a file opened for writing, a rename, a write, an fsync, a process
started, a request over SFTP. Python tells of each beforehand, by audit events (PEP 578) and by its profiler, so that a
run can be killed just before its N-th one, for every N, with nothing in the production code to help.

Run as `python faults.py` this file is the template process that `Stepper` forks such runs from: forking saves the half
second of imports that each run would begin with.
"""

import atexit
import gc
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn, Self, TypeVar

from paramiko.sftp import CMD_EXTENDED, CMD_NAMES
from paramiko.util import asbytes

T = TypeVar("T")
U = TypeVar("U")

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
_CALLED = frozenset({"fsync", "ftruncate", "pwrite", "truncate", "write"})
_CALL = re.compile(r"(?:(\d+) +)?([a-z0-9_]+)\((.*)")
_PATH = re.compile(r"""(?<!AT_FDCWD)[<"](/[^>"]*)""")
_WRITABLE = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code (negative: the signal that ended it), what it said, and its steps up to there."""

    code: int
    out: str
    err: str
    steps: tuple[str, ...]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Stepper:
    """Forks runs of `backupd`, one at a time, and signals each just before its N-th step."""

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(exist_ok=True)
        self._files = {name: scratch / name for name in ("out", "err", "steps")}
        self._template = subprocess.Popen(
            [sys.executable, "-B", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=scratch
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with self._template:
            self._template.kill()

    def run(
        self,
        arguments: Sequence[str | Path],
        environ: Mapping[str, str],
        *,
        at: int | None = None,
        send: signal.Signals = signal.SIGKILL,
        again: bool = False,
        after_s: float | None = None,
        counted: bool = False,
    ) -> Ended:
        """Run `backupd ARGUMENTS` with `environ` added, and `send` it a signal before its step `at` or `after_s`.

        The same comes `again` before each step after that. Steps are only `counted` on demand, or where one of them is
        waited for.
        """
        request = {
            "arguments": [*map(str, arguments)],
            "environ": dict(environ),
            "at": at,
            "signal": int(send),
            "again": again,
            "after_s": after_s,
            "counted": counted or at is not None,
            **{name: str(path) for name, path in self._files.items()},
        }
        assert self._template.stdin is not None
        assert self._template.stdout is not None
        self._template.stdin.write(json.dumps(request) + "\n")
        self._template.stdin.flush()
        code = int(self._template.stdout.readline())
        out, err, steps = (path.read_text() for path in self._files.values())
        assert "Traceback" not in err, err
        return Ended(code, out, err, tuple(steps.splitlines()))


class Crew:
    """A few steppers that take turns: as many runs at once as threads call."""

    def __init__(self, members: Sequence[Stepper]) -> None:
        self._free: SimpleQueue[Stepper] = SimpleQueue()
        for member in members:
            self._free.put(member)

    def run(self, arguments: Sequence[str | Path], environ: Mapping[str, str], **options: Any) -> Ended:
        """Let the next free stepper run `backupd ARGUMENTS`; see `Stepper.run`."""
        stepper = self._free.get()
        try:
            return stepper.run(arguments, environ, **options)
        finally:
            self._free.put(stepper)


@contextmanager
def crew(scratch: Path, size: int = 2) -> Iterator[Crew]:
    """Lend a crew of `size`."""
    with ExitStack() as stack:
        yield Crew([stack.enter_context(Stepper(scratch / str(number))) for number in range(size)])


def at_every_step(check: Callable[[int | None], Ended]) -> tuple[str, ...]:
    """Call `check(None)`, which runs to its end, then `check(N)` for each of the steps it took; return those."""
    steps = check(None).steps

    def noted(at: int) -> None:
        try:
            check(at)
        except BaseException as error:
            error.add_note(f"before step {at}: {steps[at]}")
            raise

    on_both_cores(noted, range(len(steps)))
    return steps


def on_both_cores(work: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """Return `work(item)` for each of `items`, two at a time; the first that fails ends it."""
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(work, item) for item in items]
        wait(futures, return_when=FIRST_EXCEPTION)
        pool.shutdown(cancel_futures=True)
        return [future.result() for future in sorted(futures, key=Future.cancelled)]


@dataclass(frozen=True)
class Call:
    """A system call: by which process (0: the first), its how many-th of this name, and on what."""

    process: int
    name: str
    number: int
    text: str

    @property
    def paths(self) -> list[str]:
        """The paths that it names, or the files of its descriptors."""
        return _PATH.findall(self.text)

    @property
    def path(self) -> str:
        """The first of them."""
        return next(iter(self.paths), "")


def traced(
    environ: Mapping[str, str],
    scratch: Path,
    calls: str,
    *inject: str,
    follow: bool = True,
    arguments: Sequence[str | Path] = ("backup",),
    path: Path | None = None,
) -> tuple[Ended, list[Call]]:
    """Run `backupd ARGUMENTS` under strace(1); return it with its `calls`, after letting it `inject` errors or signals.

    Injections count for each process by itself. Only the first feels them unless children are to `follow`: then calls
    are filtered in the kernel, which is far quicker, but injected signals get lost (strace 6.1). Of one `path` where it
    is given.
    """
    journal = scratch / "strace"
    options = ["-f", "--seccomp-bpf"] if follow else []
    options += [f"--trace-path={path}"] if path else []
    options += [f"--inject={what}" for what in inject]
    command = [sys.executable, "-m", "backupd", *arguments]
    done = subprocess.run(
        ["strace", "-qq", "-y", "-s", "200", "-o", journal, f"--trace={calls}", *options, *command],
        env=environ,
        cwd=scratch,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr, ()), [*_calls(journal.read_text(errors="replace"))]


def _calls(journal: str) -> Iterator[Call]:
    processes: dict[str, int] = {}
    numbers: Counter[tuple[int, str]] = Counter()
    for line in journal.splitlines():
        found = _CALL.match(line)
        if found:
            process = processes.setdefault(found[1] or "", len(processes))
            numbers[process, found[2]] += 1
            yield Call(process, found[2], numbers[process, found[2]], found[3])


@contextmanager
def stopped(
    environ: Mapping[str, str], scratch: Path, condition: Callable[[], bool], *arguments: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `backupd ARGUMENTS` until `condition` holds, let it stand still (SIGSTOP) during the block, then end.

    What it says on standard error is in `scratch / "err"`.
    """
    command = [sys.executable, "-m", "backupd", *arguments]
    with (scratch / "err").open("wb") as err:
        process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=err)
    with process:
        try:
            while not condition():
                assert process.poll() is None, "it ended before anybody saw it at work"
                time.sleep(0.001)
            process.send_signal(signal.SIGSTOP)
            yield process
        except BaseException:
            process.kill()
            raise
        process.send_signal(signal.SIGCONT)


def processes_below(directory: Path) -> list[int]:
    """Return the processes whose working directory, perhaps removed by now, is or was below `directory`."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and str((entry / "cwd").readlink()).startswith(f"{directory}/"):
                found.append(int(entry.name))
    return found


def _serve() -> None:
    """Fork a run for each request on stdin; answer with its exit code, negative for a signal."""
    _import_all()
    gc.freeze()  # what is shared with the forks is not to be touched in any
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            _become(request)
        if request["after_s"] is not None and not _has_ended(process, request["after_s"]):
            os.kill(process, request["signal"])
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _has_ended(process: int, within_s: float) -> bool:
    descriptor = os.pidfd_open(process)
    try:
        return bool(select.select([descriptor], [], [], within_s)[0])
    finally:
        os.close(descriptor)


def _import_all() -> None:
    """Import what commands import when they are called, while there is one thread and nothing is at stake."""
    import backupd.cli.backup
    import backupd.cli.catalog
    import backupd.cli.listing
    import backupd.cli.prune
    import backupd.cli.replicate
    import backupd.cli.restore
    import backupd.cli.verify  # noqa: F401


def _become(request: dict[str, Any]) -> NoReturn:
    """Be the run: `backupd.__main__.main()`, in an environment of its own and with its steps counted."""
    from backupd.__main__ import main

    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    steps = os.open(request["steps"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    for name in [name for name in os.environ if name.startswith("BACKUPD_")]:
        del os.environ[name]
    os.environ.update(request["environ"])
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
        if number == at or (request["again"] and at is not None and number > at):
            os.kill(os.getpid(), request["signal"])

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _AUDITED or (event == "open" and arguments[2] & _WRITABLE):
            step(f"{event} {' '.join(str(argument) for argument in arguments[:2])}")

    def profile(frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and function.__name__ in _CALLED:
            step(f"{function.__name__} in {frame.f_code.co_name}")
        elif event == "call" and frame.f_code.co_name == "_async_request":
            kind, (first, *_) = frame.f_locals["t"], frame.f_locals["args"]
            name = asbytes(first).decode() if kind == CMD_EXTENDED else CMD_NAMES[kind]
            step(f"sftp {name}")

    sys.addaudithook(audit)
    sys.setprofile(profile)


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


if __name__ == "__main__":
    _serve()
