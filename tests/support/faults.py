"""Kill, signal and inject errors into real `backupd` processes at chosen steps, and inspect what they leave behind."""

import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from support.command import borrowed_fork_server
from support.fork_server import CommandResult, ForkedRun, environment

T = TypeVar("T")
U = TypeVar("U")

_CALL = re.compile(r"(?:(\d+) +)?([a-z0-9_]+)\((.*)")
_RELATIVE = re.compile(r'<(/[^>]*)>, "([^/"][^"]*)"')
_PATH = re.compile(r"""(?<!AT_FDCWD)[<"](/[^>"]*)""")


@dataclass(frozen=True)
class BackupdRunner:
    """Runs of `backupd` in the directory `scratch`, as many at once as threads call."""

    scratch: Path

    def run(self, arguments: Sequence[str | Path], environ: Mapping[str, str], **options: Any) -> CommandResult:
        """Run `backupd ARGUMENTS` in a fork; see `ForkServer.run`."""
        with borrowed_fork_server() as fork_server:
            return fork_server.run(arguments, environment(environ), self.scratch, **options)


def at_every_step(
    check: Callable[[int | None], CommandResult], *, choose: Callable[[], Sequence[int]] | None = None
) -> tuple[str, ...]:
    """Call `check(None)`, which runs to its end, then `check(N)` for each of the steps it took; return those.

    For those alone that `choose` then returns, where it is given.
    """
    steps = check(None).steps

    def noted(at: int) -> None:
        try:
            check(at)
        except BaseException as error:
            error.add_note(f"before step {at}: {steps[at]}")
            raise

    on_both_cores(noted, choose() if choose else range(len(steps)))
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
        is_relative = self.name.endswith(("at", "at2"))  # the text after the directory of another call is data
        return _PATH.findall(_RELATIVE.sub(r'"\1/\2"', self.text) if is_relative else self.text)

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
) -> tuple[CommandResult, list[Call]]:
    """Run `backupd ARGUMENTS` under strace(1); return it with its `calls`, after letting it `inject` errors or signals.

    Injections count for each process by itself. Only the first feels them unless children are to `follow`. Of one
    `path` where it is given.
    """
    journal = scratch / "strace"
    options = ["-f"] if follow else []
    options += [f"--trace-path={path}"] if path else []
    options += [f"--inject={what}" for what in inject]
    strace = ["-y", "-s", "200", "-o", journal, f"--trace={calls}", *options]
    with borrowed_fork_server() as fork_server:
        ended = fork_server.run(arguments, environ, scratch, strace=strace)
    return ended, [*_calls(journal.read_text(errors="replace"))]


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
) -> Iterator[ForkedRun]:
    """Run `backupd ARGUMENTS` until `condition` holds, stop it (SIGSTOP) during the block, then end it.

    What it says on standard error is then in `scratch / "err"`.
    """
    with borrowed_fork_server() as fork_server:
        run = fork_server.start(arguments, environ, scratch)
        try:
            while not condition():
                assert run.poll() is None, "it ended before it reached the condition"
                time.sleep(0.001)
            run.send_signal(signal.SIGSTOP)
            yield run
        except BaseException:
            run.send_signal(signal.SIGKILL)
            run.wait()
            raise
        run.send_signal(signal.SIGCONT)
        (scratch / "err").write_text(fork_server.result(run).err)


def processes_below(directory: Path) -> list[int]:
    """Return the processes whose working directory, perhaps removed by now, is or was below `directory`."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and str((entry / "cwd").readlink()).startswith(f"{directory}/"):
                found.append(int(entry.name))
    return found
