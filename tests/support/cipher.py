"""Apps whose databases are encrypted, by SQLCipher, and what they find in a copy."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.app import App, running_app

KEY = ("key='secret'", "kdf_iter=4000")
WHOLE = KEY
PLAIN_HEADER = (*KEY, "cipher_plaintext_header_size=32", f"cipher_salt=\"x'{'01' * 16}'\"")
_ROWS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) "


@contextmanager
def encrypted(path: Path, cipher: Sequence[str] = WHOLE, mode: str = "delete") -> Iterator[App]:
    """Run an app on a new encrypted database with two accounts and a table of 2,000 rows."""
    with running_app(path, cipher=cipher) as app:
        app.sql(f"PRAGMA journal_mode={mode}")
        app.sql("CREATE TABLE account(id, balance)")
        app.sql("INSERT INTO account VALUES (1, 50), (2, 50)")
        app.sql("CREATE TABLE long(v)")
        app.sql(f"INSERT INTO long {_ROWS} SELECT hex(randomblob(40)) FROM n")
        yield app


def read(path: Path, query: str, cipher: Sequence[str] = WHOLE) -> list[list[Any]]:
    """Let the app open a copy, which it proves by its authentication codes and by its structure."""
    with running_app(path, cipher=cipher) as app:
        assert app.sql("PRAGMA cipher_integrity_check") == []
        assert app.sql("PRAGMA integrity_check") == [["ok"]]
        return app.sql(query)
