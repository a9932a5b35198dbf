"""Searches the processes of a tree for secrets, like a user who can read /proc there."""

import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.processes import children_of, stopped

_BLOCK = 1 << 20
_WORKER = "sqlite.worker"
_PAUSE_S, _WORKER_PAUSE_S = 0.5, 0.05  # between two searches of one process


@dataclass
class Found:
    """The kinds of processes that were seen, and where each secret was found, by kind, place and name."""

    seen: set[str] = field(default_factory=set)
    memories: set[str] = field(default_factory=set)
    where: set[tuple[str, str, str]] = field(default_factory=set)


@contextmanager
def watched_for(secrets: Mapping[str, str], root: int | None = None) -> Iterator[Found]:
    """Search environment, command line and memory of all processes that start below `root` (default: this one)."""
    found, stop = Found(), threading.Event()
    older = set(_below(root or os.getpid()))  # servers of other tests, whose search would take most of the time

    def look(*, workers: bool) -> None:
        searched: dict[tuple[int, str], float] = {}
        while not stop.wait(0.005):
            for process in set(_below(root or os.getpid())) - older:
                kind = kind_of(_command(process))
                due = time.monotonic() >= searched.get((process, kind), 0.0)
                if due and kind.startswith(_WORKER) == workers:
                    with suppress(ProcessLookupError), stopped(process) if workers else nullcontext():
                        _search(process, secrets, found)  # stopped, since workers live for a short time only
                    searched[process, kind] = time.monotonic() + (_WORKER_PAUSE_S if workers else _PAUSE_S)

    threads = [threading.Thread(target=look, kwargs={"workers": workers}) for workers in (True, False)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def kind_of(command: Iterable[str]) -> str:
    """Return what a process does: the module that it runs, or its program."""
    words = [word for word in command if word]
    module = words[words.index("-m") + 1 :] if "-m" in words[:4] else words[:1]
    name = module[0].removeprefix("backupd.") if module else ""
    anew = ["anew"] if name == "backupd" and "-P" in words[:2] else []  # see `system.relaunch`
    return " ".join([*anew, name, *module[1:2]]) if name in ("backupd", "daemon.task_process") else name


def _below(process: int) -> Iterator[int]:
    for child in children_of(process):
        yield child
        yield from _below(child)


def _command(process: int) -> list[str]:
    with suppress(OSError):
        return os.fsdecode(Path(f"/proc/{process}/cmdline").read_bytes()).split("\0")
    return []


def _search(process: int, secrets: Mapping[str, str], found: Found) -> None:
    with suppress(OSError):
        command = Path(f"/proc/{process}/cmdline").read_bytes()
        kind = kind_of(os.fsdecode(command).split("\0"))
        environ = Path(f"/proc/{process}/environ").read_bytes()
        memory = b"".join(_memory(process))
        if Path(f"/proc/{process}/cmdline").read_bytes() != command or not environ:
            return  # it has become another program meanwhile, or ended
        found.seen.add(kind)
        if memory:
            found.memories.add(kind)
        places = {"command line": command, "environment": environ, "memory": memory}
        for place, content in places.items():
            found.where.update((kind, place, name) for name, secret in secrets.items() if secret.encode() in content)


def _memory(process: int) -> Iterator[bytes]:
    """Yield the memory of a process that it can write: heap, stacks and data, not its programs."""
    with Path(f"/proc/{process}/maps").open() as maps, Path(f"/proc/{process}/mem").open("rb", 0) as memory:
        for line in maps:
            area = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if area is None:
                continue
            at, end = int(area[1], 16), int(area[2], 16)
            with suppress(OSError, ValueError):
                memory.seek(at)
                while at < end and (block := memory.read(min(_BLOCK, end - at))):
                    yield block
                    at += len(block)
