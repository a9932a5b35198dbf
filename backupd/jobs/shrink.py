"""The shrink guard: a copy that is sound but has lost much of what the last one held. Pure."""

from dataclasses import dataclass

from backupd.jobs.words import human_bytes
from backupd.model import Contents, Manifest
from backupd.sqlite.shadows import shadows_of

_NAMED = 5


@dataclass(frozen=True, slots=True)
class ShrinkGuard:
    """Which losses against the last generation are alarming, as fractions of what was there."""

    enabled: bool = True
    max_row_loss: float = 0.5
    max_size_loss: float = 0.5
    min_rows: int = 100


def losses(before: Manifest, now: Contents | None, snapshot_bytes: int, guard: ShrinkGuard) -> list[str]:
    """Return in words what is alarming about `now` against `before`; nothing when the guard is off.

    Of contents that cannot be read (`None`) only the size is known.
    """
    if not guard.enabled:
        return []
    found: list[str] = []
    if before.contents is not None and now is not None:
        compared = _compared(before.contents, now)
        found = _tables_gone(before.contents, now, compared) + _rows_gone(before.contents, now, compared, guard)
    was = before.snapshot.size_bytes
    if snapshot_bytes < was * (1 - guard.max_size_loss):
        found.append(f"the database went from {human_bytes(was)} to {human_bytes(snapshot_bytes)}")
    return found


def emptied(before: Manifest, now: Contents | None) -> bool:
    """Tell whether every table is gone that the last generation had."""
    return before.contents is not None and bool(before.contents.tables) and now is not None and not now.tables


def _compared(before: Contents, now: Contents) -> dict[str, bool]:
    """Return which tables of `before` are compared with `now`, and whether their number of rows means anything.

    Shadow tables speak for a virtual table whose own rows are not known in both; otherwise they are its own affair.
    A virtual table whose rows are not known holds nothing but what is in those.
    """
    compared = dict.fromkeys(before.tables, True)
    for table, module in before.virtual.items():
        shadows = shadows_of(table, module)
        known = before.tables.get(table) is not None and (table not in now.tables or now.tables[table] is not None)
        for gone in shadows if known else (table,):
            compared.pop(gone, None)
        compared |= {name: by_row for name, by_row in shadows.items() if name in compared}
    return compared


def _tables_gone(before: Contents, now: Contents, compared: dict[str, bool]) -> list[str]:
    """Tell which tables are gone. One that was empty held nothing, and one that was renamed still holds it."""
    new = {name for name in now.tables if name not in before.tables}
    missing = [table for table in compared if table not in now.tables and before.tables[table] != 0]
    gone = []
    for table in sorted(missing, key=lambda name: before.tables[name] or 0, reverse=True):
        renamed = [name for name in new if _holds(name, now, table, before)]
        if renamed:
            new.remove(min(renamed, key=lambda name: (now.tables[name] or 0, name)))
        else:
            gone.append(table)
    more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
    return [f"tables gone: {', '.join(sorted(gone)[:_NAMED])}{more}"] if gone else []


def _holds(new: str, now: Contents, table: str, before: Contents) -> bool:
    """Tell whether `new` has the columns that `table` had, and at least as many rows."""
    had, has, columns = before.tables[table], now.tables[new], before.columns.get(table)
    return columns is not None and now.columns.get(new) == columns and (had is None or (has is not None and has >= had))


def _rows_gone(before: Contents, now: Contents, compared: dict[str, bool], guard: ShrinkGuard) -> list[str]:
    found = []
    for table, by_row in compared.items():
        was, rows = before.tables[table], now.tables.get(table)
        if not by_row or was is None or rows is None or was < guard.min_rows:
            continue
        if rows < was * (1 - guard.max_row_loss):
            found.append(f"{table} went from {was} to {rows} rows")
    return found
