"""Whether what was restored is what the manifest speaks of: told table by table."""

from collections.abc import Iterator

from backupd.model import Contents

_MOST = 3


def differences(found: Contents | None, expected: Contents | None) -> str:
    """Return in words how the contents `found` in a copy differ from those `expected`, empty when they do not.

    Rows that either side could not count (`None`) are passed over: that takes functions that only the app has. So is
    all of it where nothing of the contents is expected.
    """
    if expected is None:
        return ""
    if found is None:
        return "its contents could not be counted"
    told = list(_told(found, expected))
    more = f" and {len(told) - _MOST} more differences" if len(told) > _MOST else ""
    return "; ".join(told[:_MOST]) + more


def _told(found: Contents, expected: Contents) -> Iterator[str]:
    for table in sorted(expected.tables.keys() - found.tables.keys()):
        yield f"table {table} is missing"
    for table in sorted(found.tables.keys() - expected.tables.keys()):
        yield f"table {table} is not in the manifest"
    for table in sorted(found.tables.keys() & expected.tables.keys()):
        rows, wanted = found.tables[table], expected.tables[table]
        if None not in (rows, wanted) and rows != wanted:
            yield f"table {table} has {rows} rows, not {wanted}"
    if found.schema_sha256 != expected.schema_sha256:
        yield "its schema has another digest"
