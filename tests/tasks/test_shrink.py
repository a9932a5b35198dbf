"""The shrink guard raises an alarm for losses only."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.model import Contents
from backupd.tasks.publication import losses
from backupd.tasks.requests import ShrinkGuard
from support.catalog_values import manifest

Tables = dict[str, int | None]
SIZE = manifest().snapshot.size_bytes
ON = ShrinkGuard()


def alarms(before: Contents, now: Contents, size_bytes: int = SIZE, guard: ShrinkGuard = ON) -> list[str]:
    return losses(replace(manifest(), contents=before), now, size_bytes, guard)


def contents(tables: Tables, columns: dict[str, str] | None = None, **virtual: str) -> Contents:
    """Each table has columns of its own, unless `columns` says otherwise."""
    return Contents(tables, "c" * 64, {**{name: name for name in tables}, **(columns or {})}, virtual)


def full_text(rows: int | None, segments: int, name: str = "f", by_row: int = 2000) -> Tables:
    """An FTS5 table with its shadow tables; `segments` is how its index happens to be stored."""
    return {
        name: rows,
        f"{name}_content": by_row,
        f"{name}_docsize": by_row,
        f"{name}_data": segments + 2,
        f"{name}_idx": segments,
        f"{name}_config": 1,
    }


FTS = contents(full_text(2000, 287), f="fts5")
UNKNOWN = contents(full_text(None, 287), f="fts5")
RTREE: Tables = {"r": 20000, "r_rowid": 20000, "r_node": 866, "r_parent": 865}


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (contents({"a": 5, "b": 5}), contents({"b": 5}), "tables gone: a"),
        (contents({"a": None}), contents({}), "tables gone: a"),
        (contents({"a": 5}), contents({"z": 5}), "tables gone: a"),
        (contents({"a": 5}), contents({"z": 4}, {"z": "a"}), "tables gone: a"),
        (contents({"a": 5}), contents({"z": None}, {"z": "a"}), "tables gone: a"),
        (contents({"a": 5, "b": 5}, {"b": "a"}), contents({"z": 5}, {"z": "a"}), "tables gone: b"),
        (contents({"a": 5, "b": 9}, {"b": "a"}), contents({"a": 5}), "tables gone: b"),
        (contents({"a": 1000}), contents({"a": 499}), "a went from 1000 to 499 rows"),
        (FTS, contents({"x": 1}), "tables gone: f"),
        (FTS, contents(full_text(900, 287, by_row=900), f="fts5"), "f went from 2000 to 900 rows"),
        (UNKNOWN, contents({}), "tables gone: f_config, f_content, f_data, f_docsize, f_idx"),
        (
            UNKNOWN,
            contents(full_text(None, 287, by_row=900), f="fts5"),
            "f_content went from 2000 to 900 rows; f_docsize went from 2000 to 900 rows",
        ),
        (FTS, contents({**full_text(None, 287), "f_content": 0}, f="fts5"), "f_content went from 2000 to 0 rows"),
        (contents(RTREE, r="rtree"), contents({}), "tables gone: r"),
        (contents({"v": None, "v_chunks": 3}, v="vec0"), contents({}), "tables gone: v_chunks"),
        (contents({"f": 9, "f_archive": 500}, f="fts5"), contents({"f": 9}, f="fts5"), "tables gone: f_archive"),
    ],
)
def test_each_loss_raises_alarm(before: Contents, now: Contents, said: str) -> None:
    assert "; ".join(alarms(before, now)) == said


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (contents({"a": 0, "b": 5}), contents({"b": 5})),
        (contents({"a": 500}), contents({"z": 500}, {"z": "a"})),
        (contents({"a": None}), contents({"z": None}, {"z": "a"})),
        (contents({"a": 5, "b": 9}, {"b": "a"}), contents({"y": 9, "z": 5}, {"y": "a", "z": "a"})),
        (contents({"a": 1000}), contents({"a": 500})),
        (contents({"a": 99}), contents({"a": 0})),
        (contents({"a": 1000}), contents({"a": None})),
        (FTS, contents(full_text(2000, 1), f="fts5")),
        (FTS, contents({"f": 2000, "f_data": 3, "f_idx": 1, "f_config": 1}, f="fts5")),
        (FTS, contents(full_text(None, 1), f="own_module")),
        (UNKNOWN, contents(full_text(None, 1), f="fts5")),
        (FTS, contents(full_text(2000, 287, "g"), {"g": "f"}, g="fts5")),
        (contents(RTREE, r="rtree"), contents({"r": 14000, "r_rowid": 14000, "r_node": 9, "r_parent": 8}, r="rtree")),
        (contents({"f3": 5000, "f3_segments": 289, "f3_segdir": 11}, f3="fts3"), contents({"f3": 5000}, f3="fts3")),
        (contents({"words": None}, words="fts5vocab"), contents({})),
    ],
)
def test_empty_or_renamed_tables_raise_no_alarm(before: Contents, now: Contents) -> None:
    assert alarms(before, now) == []


def test_file_below_half_its_size_raises_alarm_unless_guard_is_off() -> None:
    none = contents({})
    assert alarms(none, none, SIZE // 2) == []
    assert len(alarms(none, none, SIZE // 2 - 1)) == 1
    assert alarms(contents({"a": 500}), none, 0, ShrinkGuard(enabled=False)) == []


NAMES = st.sampled_from(["a", "b", "f", "f_content", "f_data", "f_idx", "f_docsize", "z"])
ANY = st.builds(
    Contents,
    st.dictionaries(NAMES, st.none() | st.integers(0, 300)),
    st.just("c" * 64),
    st.dictionaries(NAMES, st.sampled_from(["one", "two"])),
    st.dictionaries(NAMES, st.sampled_from(["fts5", "rtree", "own"])),
)


@given(ANY)
def test_same_contents_raise_no_alarm(found: Contents) -> None:
    assert alarms(found, found) == []


@given(ANY, ANY)
def test_more_rows_and_tables_never_raise_alarm(found: Contents, more: Contents) -> None:
    grown = {name: None if rows is None else rows + 1 for name, rows in found.tables.items()}
    assert alarms(found, replace(found, tables={**more.tables, **grown})) == []


@given(ANY, NAMES)
def test_dropped_table_with_rows_always_raises_alarm(found: Contents, name: str) -> None:
    before = replace(found, tables={**found.tables, name: 7}, virtual={})
    left = {other: rows for other, rows in before.tables.items() if other != name}
    assert alarms(before, replace(before, tables=left)) == [f"tables gone: {name}"]
