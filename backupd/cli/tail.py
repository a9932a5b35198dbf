"""The lines of a file that others append to, now and as they come, whatever logrotate does to it meanwhile."""

import os
import select
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from backupd.log import open_no_link

_CHUNK_BYTES: Final = 1 << 16
_POLL_S: Final = 0.25


def lines_now(path: Path, most_bytes: int) -> Iterator[list[bytes]]:
    """Yield what the file holds, many lines at a time, the last one also when it is cut off.

    Of a line beyond `most_bytes` the beginning is yielded. Raises OSError, also for a link or a pipe.
    """
    with _Opened(path, most_bytes) as opened:
        yield from opened.lines()
        yield opened.rest()


def lines_ever(path: Path, most_bytes: int, *, wait: Callable[[], bool]) -> Iterator[list[bytes]]:
    """Yield what the file holds as above, and then what is appended, as `tail -F` does; empty lists meanwhile.

    A file that is taken away and made anew (logrotate's `create`) is read to its end first, one that is cut back
    (`copytruncate`) from its beginning; one that is not there is waited for. Ends when `wait` says so by False. Raises
    OSError.
    """
    waiting = True
    while waiting:
        try:
            opened = _Opened(path, most_bytes)
        except FileNotFoundError:
            yield []
            waiting = wait()
            continue
        with opened:
            while waiting and opened.is_current():
                yield from opened.lines()
                yield []
                waiting = wait()
            waiting = waiting and wait()  # whoever has it open still may write a last line after it was renamed
            yield from opened.lines()
            yield opened.rest()


def wait_unless_deaf(descriptor: int) -> bool:
    """Wait a moment; False as soon as nobody reads `descriptor` any more, such as `head` that has seen enough."""
    poller = select.poll()
    poller.register(descriptor, 0)
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(_POLL_S * 1000))


@dataclass
class _Opened:
    """One file, open, read up to `offset`; `part` is the beginning of a line whose end has not come yet."""

    path: Path
    most_bytes: int
    offset: int = 0
    part: bytes = b""
    descriptor: int = field(init=False)

    def __post_init__(self) -> None:
        self.descriptor = open_no_link(str(self.path), os.O_RDONLY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def is_current(self) -> bool:
        """Tell whether the path still means this file; one that was cut back is begun anew."""
        mine = os.fstat(self.descriptor)
        if mine.st_size < self.offset:
            self.offset, self.part = 0, b""
        with suppress(FileNotFoundError):
            there = self.path.lstat()
            return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
        return False

    def lines(self) -> Iterator[list[bytes]]:
        """Yield the whole lines that have come."""
        while chunk := os.pread(self.descriptor, _CHUNK_BYTES, self.offset):
            self.offset += len(chunk)
            *whole, end = chunk.split(b"\n")
            if whole:
                whole[0] = self._grown(whole[0])
                self.part = b""
                yield whole
            self.part = self._grown(end)

    def rest(self) -> list[bytes]:
        """Return the line that has no end, if there is one."""
        rest, self.part = self.part, b""
        return [rest] if rest else []

    def _grown(self, more: bytes) -> bytes:
        return self.part + more[: self.most_bytes - len(self.part)]
