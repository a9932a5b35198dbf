"""Facts for people: a table on a terminal, aligned plain lines in a pipe."""

import sys
from collections.abc import Sequence
from typing import Literal

import click


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
