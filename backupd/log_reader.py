"""One line of `backup.log` as a person reads it, whatever stands there: others may write to that file too."""

import json
import logging
import os
import select
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from backupd.formatting import printable
from backupd.log import open_no_link

_CHUNK_BYTES: Final = 1 << 16
_POLL_S: Final = 0.25


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


LEVELS: Final = ("info", "warning", "error")
# What is longer was not written by us, and is cut; even a run that removes ten thousand generations stays below.
MOST_BYTES: Final = 1 << 20
_MOST_SHOWN: Final = 4000
_NUMBERS: Final = logging.getLevelNamesMapping()
_UNREADABLE: Final = logging.WARNING  # cut off or made up: somebody should look at it
_NO_TIME: Final = "????-??-?? ??:??:??Z"


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line with its time (aware; None where it tells none) and severity, a number of `logging`.

    `facts` is what it holds, None when it is no JSON object; `raw` is its text without the end of the line.
    """

    raw: str
    at: datetime | None
    severity: int
    facts: Mapping[str, Any] | None

    def is_at_least(self, level: str) -> bool:
        """Tell whether the line is as grave as `level`, one of LEVELS; what cannot be read is a warning."""
        return self.severity >= _NUMBERS[level.upper()]

    def as_json(self) -> str:
        """Return the JSON object as it stands in the file; one that could steer a terminal is escaped."""
        return self.raw if self.raw.isprintable() else json.dumps(self.facts)

    def as_text(self) -> str:
        """Return time in UTC, level, message and what to do, on one line that no terminal takes for commands."""
        if self.facts is None:
            return f"{_NO_TIME} {'?':<7} {_shown(self.raw)}"
        hint = self.facts.get("backupd.hint")
        step = f" | what to do: {hint}" if isinstance(hint, str) and hint else ""
        time = _NO_TIME if self.at is None else f"{self.at:%F %TZ}"
        return f"{time} {_shown(self.level):<7} {_shown(str(self.facts.get('message', self.raw)) + step)}"

    @property
    def level(self) -> str:
        """The level as the line tells it."""
        return str((self.facts or {}).get("log.level", "?"))


def read_line(raw: bytes) -> LogLine:
    """Read a line, which may be anything at all."""
    text = raw.decode(errors="replace").rstrip("\r\n")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):  # not JSON, cut off, a number of thousands of digits, nested without end
        facts = None
    if not isinstance(facts, dict):
        return LogLine(text, None, _UNREADABLE, None)
    return LogLine(text, _time(facts.get("@timestamp")), _severity(facts.get("log.level")), facts)


def _time(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _severity(value: object) -> int:
    return _NUMBERS.get(value.upper(), _UNREADABLE) if isinstance(value, str) else _UNREADABLE


def _shown(text: str) -> str:
    """Return `text` for a terminal; of one that is very long the beginning."""
    if len(text) <= _MOST_SHOWN:
        return printable(text)
    return f"{printable(text[:_MOST_SHOWN])}… ({len(text)} characters)"


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
