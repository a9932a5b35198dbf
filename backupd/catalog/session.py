"""Units of work: a lock, a connection, a transaction and a session that begin and end together."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from backupd.catalog.database import WORKING, connect, directory_lock
from backupd.catalog.errors import REBUILD, CatalogUnavailable, unavailable
from backupd.catalog.migrations import LATEST

_WRITING: Final = {"backupd_begin": "BEGIN IMMEDIATE"}  # waits for another writer now rather than failing later

# Else a SIGTERM that comes while a connection is being closed is told to standard error as a traceback of the pool's.
logging.getLogger("sqlalchemy.pool").addHandler(logging.NullHandler())


def make_engine(path: Path) -> Engine:
    """Return an engine without idle connections; its option `backupd_begin` says how to begin."""
    engine = create_engine("sqlite://", creator=lambda: connect(path, *WORKING), poolclass=NullPool)
    event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("backupd_begin", "BEGIN"))


@contextmanager
def in_sqlite_words() -> Iterator[None]:
    """Let what SQLAlchemy raises be the sqlite3.Error, or other error, that it came from."""
    try:
        yield
    except SQLAlchemyError as error:
        raise getattr(error, "orig", None) or sqlite3.DatabaseError(str(error)) from error


class Work:
    """Opens units of work on the catalog at `path`; nothing is open between them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = make_engine(path)

    def close(self) -> None:
        """Let go of the engine; no connection is open anyway."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that sees one state of the catalog. Raises CatalogUnavailable."""
        with self._unit({}) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Yield the only session that writes; all or nothing is committed. Raises CatalogUnavailable."""
        with self._unit(_WRITING) as session:
            yield session

    @contextmanager
    def _unit(self, options: dict[str, str]) -> Iterator[Session]:
        with (
            unavailable(self._path),
            in_sqlite_words(),
            directory_lock(self._path.parent, exclusive=False),
            Session(self._engine.execution_options(**options)) as session,
            session.begin(),
        ):
            self._require_latest(session)
            yield session

    def _require_latest(self, session: Session) -> None:
        """Refuse a file that another backupd migrated, or something else emptied, since it was opened."""
        version: int = session.connection().exec_driver_sql("PRAGMA user_version").scalar_one()
        if version != LATEST:
            raise CatalogUnavailable(
                f"the catalog {self._path} went from version {LATEST} to {version} while it was in use",
                hint=f"restart backupd; if that does not help, {REBUILD}",
            )
