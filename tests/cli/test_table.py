"""A table fits the width of a terminal, without broken words as far as that is possible."""

from hypothesis import given
from hypothesis import strategies as st

from backupd.cli.table import TextTable

HEADINGS = ("generation", "age", "reason", "stores")
WORDS = st.lists(st.text("abcdefgh-", min_size=1, max_size=12), min_size=1, max_size=8).map(" ".join)


@given(
    st.lists(st.tuples(st.just("tasks-20261125-0400"), st.just("26 h"), WORDS, WORDS), min_size=1), st.integers(60, 200)
)
def test_table_in_any_width_shows_every_word_whole(rows: list[tuple[str, ...]], width: int) -> None:
    for below in ((), ("reason", "stores")):
        lines = [list(row) for row in TextTable(HEADINGS, rows, right={"age"}, below=below).lines(width)]
        assert max(len(line) for row in lines for line in row) <= width
        for row, shown in zip((HEADINGS, *rows), lines, strict=True):
            words = " ".join(shown).replace(";", " ").split()
            assert sorted(words) == sorted(word for cell in row for word in cell.split())


def test_table_without_width_has_one_line_for_each_row() -> None:
    rows = [("a", "1 s", "x" * 300, "local"), ("b", "20 min", "y", "local")]
    lines = [*TextTable(HEADINGS, rows, right={"age"}, below=("reason",)).lines(None)]
    assert [len([*row]) for row in lines] == [1, 1, 1]
    assert next(iter(lines[2])).startswith("b           20 min  y  ")
