"""Progress bars with rate and time left, on a terminal; silence in a pipe."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import click

from backupd.model import NoProgress, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class TerminalProgress:
    """Shows each stage of a job as a bar."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def stage(self, name: str, total_bytes: int) -> None:
        """Complete the bar of the stage before, and begin one for `name`."""
        self._complete()
        self._task = self._bars.add_task(name, total=max(total_bytes, 1))

    def advance(self, done_bytes: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.update(self._task, completed=done_bytes)

    def _complete(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=self._bars.tasks[self._task].total)


@contextmanager
def shown_progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Show progress on standard error while the block runs, if that is a terminal and `quiet` is not set."""
    if quiet or not sys.stderr.isatty():
        yield NoProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield TerminalProgress(bars)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[str] = frozenset()) -> None:
    """Print `rows`; the columns named in `right` hold numbers, and the first one what can be copied: it stays whole."""
    if sys.stdout.isatty():
        _print_rich(headings, rows, right)
    else:
        _print_plain(headings, rows, right)


def _print_rich(headings: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        justify: Literal["left", "right"] = "right" if heading in right else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading == headings[0])
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def _print_plain(headings: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[str]) -> None:
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    aligned = []
    for line in lines:
        cells = [
            cell.rjust(width) if heading in right else cell.ljust(width)
            for heading, cell, width in zip(headings, line, widths, strict=True)
        ]
        aligned.append("  ".join(cells).rstrip())
    click.echo("\n".join(aligned))  # at once, since each call flushes
