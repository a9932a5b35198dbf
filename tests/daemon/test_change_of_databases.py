"""What the daemon says when the databases of a directory are others than before."""

from pathlib import Path

import pytest

from backupd.config.source_sets import Member, SourceSets
from backupd.daemon.main import change_of
from backupd.sqlite.discovery import Search

APP = Search("tenants", Path("/app/data"), "*.db")


def found(*names: str) -> SourceSets:
    return SourceSets((), None, {}, members={name: Member(APP.directory / f"{name}.db", APP) for name in names})


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ((), ("a",), "the database /app/data/a.db was found"),
        (("a",), ("c", "b", "a"), "2 databases were found: /app/data/b.db, /app/data/c.db"),
        (("a", "b"), ("a",), "without a backup, and gone: /app/data/b.db"),
        (("a",), ("b",), "the database /app/data/b.db was found"),
        (("a",), ("a",), "the search for databases has ended otherwise than before"),
    ],
)
def test_databases_that_came_are_named_else_those_that_are_gone(
    before: tuple[str, ...], now: tuple[str, ...], said: str
) -> None:
    assert change_of(found(*before), found(*now)) == said
