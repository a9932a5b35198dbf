"""The shrink guard: a copy that is sound but has lost much of what the last one held. Pure."""

from dataclasses import dataclass

from backupd.jobs.words import human_bytes
from backupd.model import Contents, Manifest

_NAMED = 5


@dataclass(frozen=True, slots=True)
class ShrinkGuard:
    """Which losses against the last generation are alarming, as fractions of what was there."""

    enabled: bool = True
    max_row_loss: float = 0.5
    max_size_loss: float = 0.5
    min_rows: int = 100


def losses(before: Manifest, now: Contents, snapshot_bytes: int, guard: ShrinkGuard) -> list[str]:
    """Return in words what is alarming about `now` against `before`; nothing when the guard is off."""
    if not guard.enabled:
        return []
    found = _tables_gone(before, now) + _rows_gone(before, now, guard)
    was = before.snapshot.size_bytes
    if snapshot_bytes < was * (1 - guard.max_size_loss):
        found.append(f"the database went from {human_bytes(was)} to {human_bytes(snapshot_bytes)}")
    return found


def emptied(before: Manifest, now: Contents) -> bool:
    """Tell whether every table is gone that the last generation had."""
    return bool(before.contents.tables) and not now.tables


def _tables_gone(before: Manifest, now: Contents) -> list[str]:
    gone = sorted(before.contents.tables.keys() - now.tables.keys())
    more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
    return [f"tables gone: {', '.join(gone[:_NAMED])}{more}"] if gone else []


def _rows_gone(before: Manifest, now: Contents, guard: ShrinkGuard) -> list[str]:
    found = []
    for table, was in before.contents.tables.items():
        rows = now.tables.get(table)
        if was is None or rows is None or was < guard.min_rows:
            continue
        if rows < was * (1 - guard.max_row_loss):
            found.append(f"{table} went from {was} to {rows} rows")
    return found
