"""Reads `backup.log`, whatever is in it: other programs may write to that file too."""

import json
import logging
import os
import re
import select
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, Final, Self

from backupd.formatting import local_time, printable
from backupd.system.small_file import open_regular

LEVELS: Final = ("info", "warning", "error")
# A longer line was not written by backupd, and is cut; even a run that removes ten thousand generations logs less.
MAX_LINE_BYTES: Final = 1 << 20
_CHUNK_BYTES: Final = 1 << 16
_TAIL_BYTES: Final = 128 << 10
_NUMBER: Final = re.compile(r"\.[1-9][0-9]?")
_POLL_S: Final = 0.25
_MAX_SHOWN: Final = 4000
_NUMBERS: Final = logging.getLevelNamesMapping()
_UNREADABLE: Final = logging.WARNING  # cut off, or written by another program: an operator should see it
_NO_TIME: Final = "????-??-?? ??:??:?? ???"


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line."""

    raw: str  # its text, without the end of the line
    at: datetime | None  # its time in UTC; None where it has none
    severity: int  # a number of `logging`
    facts: Mapping[str, Any] | None  # its fields; None when it is not a JSON object

    @classmethod
    def parse(cls, raw: bytes) -> "LogLine":
        """Read any bytes as a line."""
        text = raw.decode(errors="replace").rstrip("\r\n")
        try:
            facts = json.loads(text)
        except (ValueError, RecursionError):  # not JSON, cut off, a number of thousands of digits, nested too deeply
            facts = None
        if not isinstance(facts, dict):
            return cls(text, None, _UNREADABLE, None)
        severity = _NUMBERS.get(str(facts.get("log.level")).upper(), _UNREADABLE)
        return cls(text, _time(facts.get("@timestamp")), severity, facts)

    @property
    def level(self) -> str:
        """The level as the line has it; empty where it has none."""
        return str((self.facts or {}).get("log.level", ""))

    @property
    def message(self) -> str:
        """The message; the whole text where the line has none."""
        return str((self.facts or {}).get("message", self.raw))

    def is_at_least(self, level: str) -> bool:
        """Return whether the line is as severe as `level`, one of LEVELS; an unreadable line counts as a warning."""
        return self.severity >= _NUMBERS[level.upper()]

    def as_json(self) -> str:
        """Return the JSON object as it is in the file, with control characters escaped."""
        return self.raw if self.raw.isprintable() else json.dumps(self.facts)

    def as_text(self, zone: tzinfo = UTC) -> str:
        """Return time in `zone`, level, message and what to do, in one line without control characters."""
        hint = (self.facts or {}).get("backupd.hint")
        step = f" | what to do: {hint}" if isinstance(hint, str) and hint else ""
        time = _NO_TIME if self.at is None else local_time(self.at, zone, seconds=True)
        return f"{time} {_shown(self.level or '?'):<7} {_shown(self.message + step)}"


def read_lines(path: Path) -> Iterator[list[bytes]]:
    """Yield the lines of the file in batches, the last one also when it is cut off.

    A line beyond `MAX_LINE_BYTES` is cut. Raises OSError, also for a link or a pipe.
    """
    with _LogFile(path) as file:
        yield from file.new_lines()
        yield file.unfinished_line()


def older_files(path: Path) -> list[Path]:
    """Return the files that were renamed when they became too large (`….1`, `….2` and so on), oldest first."""
    numbered = {
        int(name[1:]): file for file in path.parent.glob(f"{path.name}.*") if _NUMBER.fullmatch(name := file.suffix)
    }
    return [numbered[number] for number in sorted(numbered, reverse=True)]


def read_all_lines(path: Path) -> Iterator[list[bytes]]:
    """Yield the lines of the older files and of the file, as `read_lines` does; unreadable older ones are skipped."""
    for older in older_files(path):
        with suppress(OSError):
            yield from filter(None, read_lines(older))
    yield from read_lines(path)


def follow_lines(path: Path, *, wait: Callable[[], bool]) -> Iterator[list[bytes]]:
    """Yield the lines of the file as `read_lines` does, and then what is appended, as `tail -F` does.

    An empty batch comes when all is read, before each call of `wait`; this ends when `wait` returns False. A file that
    is replaced (logrotate's `create`) is read to its end first, one that is truncated (`copytruncate`) from its
    beginning; a missing one is waited for. Raises OSError.
    """
    waiting = True
    while waiting:
        try:
            file = _LogFile(path)
        except FileNotFoundError:
            yield []
            waiting = wait()
            continue
        with file:
            while waiting and file.is_current():
                yield from file.new_lines()
                yield []
                waiting = wait()
            waiting = waiting and wait()  # a process that has it open may write a last line after it was renamed
            yield from file.new_lines()
            yield file.unfinished_line()


def last_lines(path: Path, count: int) -> tuple[LogLine, ...]:
    """Return the last `count` lines, oldest first, as far as the last 128 KiB hold them; none without a file.

    Raises OSError.
    """
    try:
        file = _LogFile(path)
    except FileNotFoundError:
        return ()
    with file:
        skipped = file.offset = max(0, os.fstat(file.descriptor).st_size - _TAIL_BYTES)
        lines = [line for batch in file.new_lines() for line in batch] + file.unfinished_line()
    whole = lines[1:] if skipped else lines
    return tuple(LogLine.parse(line) for line in [line for line in whole if line.strip()][-count:])


def wait_for_more(output: int) -> bool:
    """Wait a moment; return False once nothing reads the descriptor `output`, such as `head` after its lines."""
    poller = select.poll()
    poller.register(output, 0)
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(_POLL_S * 1000))


@dataclass
class _LogFile:
    """An open file, read up to `offset`; `part` is the beginning of a line whose end is not written yet."""

    path: Path
    offset: int = 0
    part: bytes = b""
    descriptor: int = field(init=False)

    def __post_init__(self) -> None:
        self.descriptor = open_regular(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def is_current(self) -> bool:
        """Return whether the path still names this file; a truncated one is read again from its beginning."""
        opened = os.fstat(self.descriptor)
        if opened.st_size < self.offset:
            self.offset, self.part = 0, b""
        with suppress(FileNotFoundError):
            named = self.path.lstat()
            return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
        return False

    def new_lines(self) -> Iterator[list[bytes]]:
        """Yield the complete lines that were appended."""
        while chunk := os.pread(self.descriptor, _CHUNK_BYTES, self.offset):
            self.offset += len(chunk)
            *lines, end = chunk.split(b"\n")
            if lines:
                lines[0] = self._completed(lines[0])
                self.part = b""
                yield lines
            self.part = self._completed(end)

    def unfinished_line(self) -> list[bytes]:
        """Return the line that has no end, if there is one."""
        part, self.part = self.part, b""
        return [part] if part else []

    def _completed(self, more: bytes) -> bytes:
        return self.part + more[: MAX_LINE_BYTES - len(self.part)]


def _time(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _shown(text: str) -> str:
    """Return `text` for a terminal; of a very long one the beginning."""
    if len(text) <= _MAX_SHOWN:
        return printable(text)
    return f"{printable(text[:_MAX_SHOWN])}… ({len(text)} characters)"
