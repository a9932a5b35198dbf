"""Looks for secrets in the processes of a tree, as whoever can read /proc there would."""

import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.daemon import children_of

_BLOCK = 1 << 20
_PAUSE_S = 0.5  # between two searches of one process


@dataclass
class Found:
    """The kinds of processes that were seen, and where each secret was found, by kind, place and name."""

    seen: set[str] = field(default_factory=set)
    memories: set[str] = field(default_factory=set)
    where: set[tuple[str, str, str]] = field(default_factory=set)


@contextmanager
def watched_for(secrets: Mapping[str, str], root: int | None = None) -> Iterator[Found]:
    """Search environment, command line and memory of all processes below `root` (default: this one) in the block."""
    found, stop = Found(), threading.Event()

    searched: dict[int, float] = {}

    def look() -> None:
        while not stop.wait(0.01):
            for process in _below(root or os.getpid()):
                if time.monotonic() >= searched.get(process, 0.0):
                    _search(process, secrets, found)
                    searched[process] = time.monotonic() + _PAUSE_S

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
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
