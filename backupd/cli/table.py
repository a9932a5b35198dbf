"""Tables of plain text that fit a width without breaking words, as far as that is possible."""

import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

_GAP = "  "
_INDENT = "  "
_LEAST_CHARACTERS = 4  # of a column, in a terminal that is too narrow for its words


@dataclass(frozen=True, slots=True)
class TextTable:
    """Rows under headings; the first column is never wrapped: people copy it.

    `right` names the columns that stand to the right; `below` those that go onto lines of their own where a row is too
    long for one line.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[str] = ()
    below: Collection[str] = ()

    def lines(self, width: int | None) -> Iterator[Sequence[str]]:
        """Yield the lines of the headings, then those of each row; without a `width` each is one line."""
        beside: Sequence[int] = range(len(self.headings))
        if width is not None and self._total(self._longest(column) for column in beside) > width:
            beside = [column for column in beside if self.headings[column] not in self.below]
        widths = self._fitting(beside, width)
        for row in (self.headings, *self.rows):
            yield [*self._aligned(row, widths), *self._beneath(row, widths, width)]

    @staticmethod
    def _total(widths: Iterable[int]) -> int:
        """Return the width of a line of columns with these widths."""
        return sum(width + len(_GAP) for width in widths) - len(_GAP)

    def _longest(self, column: int) -> int:
        return max(len(row[column]) for row in (self.headings, *self.rows))

    def _longest_word(self, column: int) -> int:
        return max(len(word) for row in (self.headings, *self.rows) for word in row[column].split() or [""])

    def _fitting(self, columns: Iterable[int], width: int | None) -> dict[int, int]:
        """Return the width of each column; the widest ones become narrower: first down to their words, then further."""
        widths = {column: self._longest(column) for column in columns}
        if width is None:
            return widths
        wrapped = [column for column in widths if column != 0 and self.headings[column] not in self.right]
        for least in ({column: self._longest_word(column) for column in wrapped}, dict.fromkeys(wrapped, 0)):
            while self._total(widths.values()) > width:
                able = [column for column in wrapped if widths[column] > max(least[column], _LEAST_CHARACTERS)]
                if not able:
                    break
                widths[max(able, key=widths.__getitem__)] -= 1
        return widths

    def _aligned(self, row: Sequence[str], widths: dict[int, int]) -> Iterator[str]:
        cells = {column: _wrapped(row[column], width) for column, width in widths.items()}
        for number in range(max(len(lines) for lines in cells.values())):
            line = []
            for column, width in widths.items():
                text = cells[column][number] if number < len(cells[column]) else ""
                line.append(text.rjust(width) if self.headings[column] in self.right else text.ljust(width))
            yield _GAP.join(line).rstrip()

    def _beneath(self, row: Sequence[str], widths: dict[int, int], width: int | None) -> Iterator[str]:
        text = "; ".join(row[column] for column in range(len(row)) if column not in widths)
        if text and width is not None:
            yield from (_INDENT + line for line in _wrapped(text, width - len(_INDENT)))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False) if len(text) > width else [text]
