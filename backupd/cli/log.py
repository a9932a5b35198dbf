"""`backupd log`."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final
from zoneinfo import ZoneInfo

import click

from backupd.cli import output
from backupd.cli.common import command, open_context, require_mounted
from backupd.config import Config
from backupd.errors import LogMissing, UsageError
from backupd.formatting import parse_span
from backupd.log import LOG_NAME
from backupd.log_reader import LEVELS, LogLine, follow_lines, older_files, read_all_lines, wait_for_more
from backupd.system.signals import INTERRUPTED

_COLOURS: Final = {"WARNING": "yellow", "ERROR": "red"}
_TAIL: Final = 10  # as tail(1) shows before it follows


@command("log", "backupd log --since 2d --level warning", {130: "Ctrl-C ended --follow"}, without_sources=True)
@click.option("--follow", "-f", is_flag=True, help=f"Show the last {_TAIL} lines, then each new one.")
@click.option("--since", metavar="TIME", help='Since then: "2h", "3d", "2026-11-20", "2026-11-20 14:00".')
@click.option(
    "--level",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
    help="Lowest level to show.",
)
@click.option("--lines", "-n", "most", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
def log_command(
    config: Config, since: str | None, level: str, most: int | None, *, follow: bool, as_json: bool
) -> None:
    """Show local time, level, what happened, and what to do.

    A line that cannot be parsed is shown with a question mark. --json prints the lines of the file unchanged, without
    those. --follow goes on when logrotate renames the file, until Ctrl-C.
    """
    zone = ZoneInfo(config.schedule.timezone)
    earliest = None if since is None else _time(since, datetime.now(UTC), zone)
    context = open_context(config, writing=False)
    require_mounted(context)
    path = context.store.directory / LOG_NAME
    wanted = _Filter(earliest, level)
    if follow and since is None and most is None:
        most = _TAIL
    try:
        batches = (
            follow_lines(path, wait=partial(wait_for_more, sys.stdout.fileno())) if follow else read_all_lines(path)
        )
        for lines in _chosen(batches, wanted, most):
            _print(lines, zone, as_json=as_json)
    except FileNotFoundError as error:
        raise LogMissing(f"there is no {path}", "the first run creates it; --follow waits for it") from error
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    shown = [] if follow else older_files(path)
    older = sorted(file for file in path.parent.glob(f"{LOG_NAME}[-.]*") if file not in shown)
    if wanted.is_cut_short() and older:
        output.echo(f"older lines are in {', '.join(file.name for file in older)}", err=True)


class _Filter:
    """Selects lines by time and level; a line without a time has that of the line before it."""

    def __init__(self, since: datetime | None, level: str) -> None:
        self._since, self._level = since, level
        self._first: datetime | None = None
        self._last: datetime | None = None

    def select(self, batch: Iterable[bytes]) -> list[LogLine]:
        """Return the lines of `batch` that are wanted."""
        return [line for line in map(LogLine.parse, batch) if self._wants(line)]

    def is_cut_short(self) -> bool:
        """Whether the log begins later than the time asked for."""
        return self._since is not None and self._first is not None and self._first > self._since

    def _wants(self, line: LogLine) -> bool:
        self._last = line.at or self._last
        self._first = self._first or line.at
        late_enough = self._since is None or (self._last is not None and self._last >= self._since)
        return late_enough and line.is_at_least(self._level)


def _chosen(batches: Iterator[list[bytes]], wanted: _Filter, most: int | None) -> Iterator[list[LogLine]]:
    """Yield the wanted lines; of those in the file now (until an empty batch) only the last `most`."""
    if most is not None:
        last: deque[LogLine] = deque(maxlen=most)
        for batch in batches:
            if not batch:
                break
            last.extend(wanted.select(batch))
        yield list(last)
    for batch in batches:
        yield wanted.select(batch)


def _print(lines: list[LogLine], zone: ZoneInfo, *, as_json: bool) -> None:
    texts = [
        line.as_json() if as_json else _coloured(line, zone) for line in lines if line.facts is not None or not as_json
    ]
    if text := "\n".join(texts):
        output.echo(text)


def _coloured(line: LogLine, zone: ZoneInfo) -> str:
    text, colour = line.as_text(zone), _COLOURS.get(line.level)
    return click.style(text, fg=colour) if colour else text


def _time(text: str, now: datetime, zone: ZoneInfo) -> datetime:
    """Parse a span before `now`, a date or a time; without a zone it is in `zone`. Raises UsageError."""
    try:
        with suppress(ValueError):
            return now - parse_span(text)
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        hint = 'write it like "2h", "3d" (s, min, h, d, w), "2026-11-20" or "2026-11-20 14:00"'
        raise UsageError(f"{text!r} is not a time", hint) from None
