"""Units of work with SQLAlchemy: a lock, a connection, a transaction and a session that begin and end together."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from backupd.catalog.connection import REBUILD, catalog_errors, connect
from backupd.catalog.database import LATEST, WORKING, catalog_lock, require_schema, user_version
from backupd.errors import CatalogUnavailable

# Without it the pool prints a traceback to standard error when a SIGTERM arrives while a connection is being closed.
logging.getLogger("sqlalchemy.pool").addHandler(logging.NullHandler())


def make_engine(path: Path) -> Engine:
    """Return an engine without idle connections; its option `backupd_begin` is the statement that begins."""
    engine = create_engine("sqlite://", creator=lambda: connect(path, *WORKING), poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("backupd_begin", "BEGIN"))

    return engine


@contextmanager
def sqlalchemy_errors() -> Iterator[None]:
    """Raise the sqlite3.Error, or other error, that SQLAlchemy's error was raised from."""
    try:
        yield
    except SQLAlchemyError as error:
        raise getattr(error, "orig", None) or sqlite3.DatabaseError(str(error)) from error


class UnitOfWork:
    """Opens units of work on the catalog at `path`; nothing is open between them, except after `hold`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = make_engine(path)
        self._held = ExitStack()
        self._session: Session | None = None

    def close(self) -> None:
        """Release the engine, which then holds no connection. Raises CatalogUnavailable."""
        with self._held:
            self._session = None
        self._engine.dispose()

    def hold(self) -> None:
        """Read one state until `close`, through one connection. Raises CatalogUnavailable."""
        self._session = self._held.enter_context(self._unit())

    def reading(self) -> AbstractContextManager[Session]:
        """Yield a session that sees one state of the catalog. Raises CatalogUnavailable."""
        return self._unit() if self._session is None else self._part_of(self._session)

    def writing(self) -> AbstractContextManager[Session]:
        """Yield the only session that writes; commits all or nothing. Raises CatalogUnavailable."""
        return self._unit(backupd_begin="BEGIN IMMEDIATE")  # waits for another writer now instead of failing later

    @contextmanager
    def _part_of(self, session: Session) -> Iterator[Session]:
        with catalog_errors(self._path), sqlalchemy_errors():
            yield session

    @contextmanager
    def _unit(self, **options: str) -> Iterator[Session]:
        with (
            catalog_errors(self._path),
            sqlalchemy_errors(),
            catalog_lock(self._path.parent, exclusive=False),
            Session(self._engine.execution_options(**options)) as session,
            session.begin(),
        ):
            connection = session.connection().connection.dbapi_connection
            assert isinstance(connection, sqlite3.Connection)  # noqa: S101 - for the type checker
            version = user_version(connection)
            if version != LATEST:  # since it was opened, another backupd migrated it or another program emptied it
                raise CatalogUnavailable(
                    f"the catalog {self._path} changed from version {LATEST} to {version} while it was in use",
                    hint=f"restart backupd; if that does not help, {REBUILD}",
                )
            require_schema(connection)
            yield session
