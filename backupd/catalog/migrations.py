"""The schema's history: SQL steps in order; `PRAGMA user_version` tells how many of them a file has seen."""

import sqlite3
from collections.abc import Iterator
from importlib.resources import files
from typing import Final

_STEPS: Final = tuple(
    step.read_text(encoding="utf-8")
    for step in sorted(files("backupd.catalog").joinpath("migrations").iterdir(), key=lambda step: step.name)
    if step.name.endswith(".sql")
)
LATEST: Final = len(_STEPS)


def user_version(connection: sqlite3.Connection) -> int:
    """Return how many steps the file has seen; 0 when it is empty."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def migrate(connection: sqlite3.Connection, target: int = LATEST) -> None:
    """Take the steps that are missing up to `target`, each with its version in one transaction.

    `connection` is in autocommit mode (`isolation_level=None`) with foreign keys off: a step that makes a
    table anew must not cascade (https://sqlite.org/lang_altertable.html#otheralter). Two processes may do
    this at once: the second waits for the first, then finds the step taken. Raises sqlite3.Error.
    """
    seen = user_version(connection)
    for version, script in enumerate(_STEPS[seen:target], start=seen + 1):
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            if user_version(connection) < version:
                _take(connection, version, script)


def _take(connection: sqlite3.Connection, version: int, script: str) -> None:
    for statement in _statements(script):
        connection.execute(statement)
    if connection.execute("PRAGMA foreign_key_check").fetchone():
        raise sqlite3.IntegrityError(f"migration {version} leaves rows that refer to nothing")
    connection.execute(f"PRAGMA user_version = {version:d}")


def _statements(script: str) -> Iterator[str]:
    """Cut `script` where statements end; `executescript` would commit first and break the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
