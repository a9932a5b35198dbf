"""Read names and statements from a database: SQLite takes any bytes for a text, apsw only those that are Unicode."""

from collections.abc import Iterator
from typing import Any

import apsw


def texts(
    connection: apsw.Connection, query: str, values: tuple[str, ...] = (), errors: str = "backslashreplace"
) -> Iterator[list[Any]]:
    """Yield the rows of `query` with blobs decoded as the texts that they are. Raises apsw.Error."""
    encoding = str(connection.execute("PRAGMA encoding").get)
    for row in connection.execute(query, values):
        yield [value.decode(encoding, errors) if isinstance(value, bytes) else value for value in row]
