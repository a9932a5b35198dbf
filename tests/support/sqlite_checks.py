"""Databases to be checked, and what the check says of them."""

import sqlite3
from pathlib import Path

from backupd.model import Contents, Verdict
from backupd.sqlite.inspection import Inspection, checking
from support.app import running_app
from support.held import held

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) "


def inspect(path: Path, writer: str = "3.40.1") -> Inspection:
    with checking(held(path), writer) as inspection:
        return inspection()


def verdict(path: Path, writer: str = "3.40.1") -> Verdict:
    return inspect(path, writer).verdict


def contents_of(path: Path, writer: str = "3.40.1") -> Contents:
    """Return what is in the copy, which must be sound."""
    contents = inspect(path, writer).contents
    assert contents is not None
    return contents


def make(path: Path, *statements: str) -> Path:
    """Make a database with an app that has functions and collations of its own."""
    with running_app(path) as app:
        for statement in statements:
            app.sql(statement)
    return path


def rewrite(path: Path, old: str, new: str) -> None:
    """Change the SQL of the schema behind SQLite's back."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute("UPDATE sqlite_master SET sql = replace(sql, ?, ?)", (old, new))
    connection.commit()
    connection.close()


def overwrite_page(path: Path, number: int) -> None:
    """Overwrite the header of a page of 4096 bytes."""
    with path.open("r+b") as stream:
        stream.seek((number - 1) * 4096)
        stream.write(b"\xff" * 24)


def patch(path: Path, old: bytes, new: bytes) -> None:
    """Replace bytes wherever they are, by as many others."""
    assert len(old) == len(new)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
