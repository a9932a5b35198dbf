"""The catalog with files that are old, new, damaged, locked or foreign."""

import hashlib
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect

from backupd.catalog import CatalogUnavailable, database, open_catalog, read_catalog
from backupd.catalog.database import APPLICATION_ID, LATEST, MIGRATING, connect, migrate, user_version
from backupd.catalog.models import Base
from backupd.catalog.rebuild import rebuild
from support.catalog_values import APP, NOON, at, manifest, report, start

HOLD_THE_DIRECTORY = """
import sys
from pathlib import Path
from backupd.catalog.database import catalog_lock
with catalog_lock(Path(sys.argv[1]), exclusive=True):
    print("ready", flush=True)
    sys.stdin.readline()
"""
OPEN_AS_NOBODY = """
import os, sys
from pathlib import Path
from support.catalog_values import NOON, report
from backupd.catalog import CatalogUnavailable, open_catalog
with open_catalog(Path(sys.argv[2])) as catalog:  # whatever is imported late: nobody may not see the checkout or Python
    catalog.record_run(report(), NOON)
print("ready", flush=True)
sys.stdin.readline()
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    with open_catalog(Path(sys.argv[1])) as catalog:
        catalog.record_run(report(), NOON)
except CatalogUnavailable as error:
    print(error.hint)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with open_catalog(tmp_path / "catalog.sqlite3") as catalog:
        catalog.add_generation(manifest(), "local")
        catalog.record_run(report(), NOON)
    return tmp_path / "catalog.sqlite3"


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def schema_of(path: Path) -> dict[str, Any]:
    """Everything that SQLite knows about the tables, whatever the words they were made with."""
    with closing(sqlite3.connect(path)) as connection:

        def rows(query: str, *names: str) -> list[Any]:
            return sorted(connection.execute(query, names).fetchall())

        tables = rows("SELECT name, ncol, wr, strict FROM pragma_table_list WHERE name NOT LIKE 'sqlite_schema%'")
        found: dict[str, Any] = {"tables": tables}
        for name, *_ in tables:
            found[f"{name} columns"] = rows("SELECT * FROM pragma_table_xinfo(?)", name)
            found[f"{name} keys"] = rows("SELECT * FROM pragma_foreign_key_list(?)", name)
            indexes = rows('SELECT name, "unique", origin, partial FROM pragma_index_list(?)', name)
            found[f"{name} indexes"] = [(i, rows("SELECT * FROM pragma_index_xinfo(?)", i[0])) for i in indexes]
    engine = create_engine(f"sqlite:///{path}")
    found["checks"] = {name: inspect(engine).get_check_constraints(name) for name in Base.metadata.tables}
    engine.dispose()
    return found


def test_schema_comparison_detects_difference(path: Path) -> None:
    before = schema_of(path)
    execute(path, "DROP INDEX run_by_start")
    assert schema_of(path) != before


@pytest.mark.parametrize("version", range(LATEST))
def test_each_earlier_version_is_migrated_to_schema_of_models(tmp_path: Path, version: int) -> None:
    old = tmp_path / "old"
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL" if version else "PRAGMA user_version")
        migrate(connection, target=version)
        assert user_version(connection) == version
    before = old.read_bytes()
    with pytest.raises(CatalogUnavailable, match="older version"):
        read_catalog(old)
    assert old.read_bytes() == before, "who only reads migrates nothing"
    with open_catalog(old) as catalog:
        catalog.record_run(report(), NOON)
    with read_catalog(old) as catalog:
        assert len(catalog.runs()) == 1
    engine = create_engine(f"sqlite:///{tmp_path / 'declared'}")
    Base.metadata.create_all(engine)
    engine.dispose()
    assert schema_of(old) == schema_of(tmp_path / "declared")


def test_migrations_are_numbered_without_gap() -> None:
    names = sorted(step.name for step in Path(database.__file__).with_name("migrations").iterdir())
    assert [int(name.split("_")[0]) for name in names] == list(range(1, LATEST + 1))
    assert all(name.endswith(".sql") for name in names)


def test_process_waiting_for_migration_by_another_skips_it(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    waiting = threading.Event()

    def tell(statement: str) -> None:
        if statement.startswith("BEGIN"):
            waiting.set()

    def second() -> None:
        with closing(connect(path, *MIGRATING)) as connection:
            connection.set_trace_callback(tell)
            migrate(connection)

    thread = threading.Thread(target=second)
    with closing(connect(path, *MIGRATING)) as first, first:
        first.execute("BEGIN IMMEDIATE")
        thread.start()
        assert waiting.wait(timeout=60)
        database._apply(first, 1, database._MIGRATIONS[0])
    thread.join()
    with closing(connect(path)) as connection:
        assert user_version(connection) >= 1


def test_migration_that_breaks_foreign_keys_is_rolled_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = (APP, "nowhere", NOON.isoformat(), 1, "ok", 0.1)
    with closing(connect(path, *MIGRATING)) as connection:
        connection.execute("INSERT INTO check_result VALUES (1, ?, ?, ?, ?, ?, ?)", values)
        monkeypatch.setattr(database, "_MIGRATIONS", (*database._MIGRATIONS, "CREATE TABLE later (id INTEGER);"))
        with pytest.raises(sqlite3.IntegrityError, match=f"migration {LATEST + 1}"):
            migrate(connection, target=LATEST + 1)
        assert user_version(connection) == LATEST
        assert "later" not in database.table_names(connection)


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage " * 1000)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def newer(path: Path) -> None:
    execute(path, f"PRAGMA user_version = {LATEST + 1}")


def without_a_table(path: Path) -> None:
    execute(path, "DROP TABLE check_result")


@pytest.mark.parametrize("damage", [garbage, truncated, directory, newer, without_a_table])
def test_unusable_file_is_error_with_hint(path: Path, damage: Callable[[Path], None]) -> None:
    with open_catalog(path) as catalog:
        damage(path)
        if damage is not without_a_table:
            with pytest.raises(CatalogUnavailable, match="catalog"):
                catalog.runs()
        with pytest.raises(CatalogUnavailable, match=str(path)) as caught:
            open_catalog(path)
    assert "backupd catalog rebuild" in caught.value.hint
    assert caught.value.exit_code == 1


def test_missing_directory_is_error_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(CatalogUnavailable, match="No such file"):
        open_catalog(tmp_path / "missing" / "catalog.sqlite3")
    assert not (tmp_path / "missing").exists()


def test_file_removed_during_use_is_error_and_not_created(path: Path) -> None:
    with open_catalog(path) as catalog:
        path.unlink()
        with pytest.raises(CatalogUnavailable, match="unable to open"):
            catalog.runs()
    assert not path.exists()


def test_unreadable_value_is_error(path: Path) -> None:
    for statement in ("UPDATE run SET report = '[]'", "UPDATE run SET started_at = '2026-11-01T12:00'"):
        execute(path, statement)
        with open_catalog(path) as catalog, pytest.raises(CatalogUnavailable, match=r"cannot be read|no time zone"):
            catalog.runs()


@pytest.mark.parametrize("verb", [open_catalog, read_catalog, lambda path: rebuild(path, [])])
def test_database_of_another_program_is_refused_unchanged(tmp_path: Path, verb: Callable[[Path], object]) -> None:
    path = tmp_path / "app.db"
    execute(path, "CREATE TABLE tasks (id INTEGER)", "INSERT INTO tasks VALUES (1)")
    before = hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(CatalogUnavailable, match="another program") as caught:
        verb(path)
    assert "configuration" in caught.value.hint
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["app.db"]


def test_catalog_file_has_application_id_and_wal_mode(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with path.open("r+b") as file:  # as another program may have left it
        file.seek(18)
        file.write(b"\1\1")
    open_catalog(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_file_locked_too_long_is_error_that_names_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.05)
    with open_catalog(path) as catalog, closing(connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(catalog.runs()) == 1
        with pytest.raises(CatalogUnavailable, match="locked") as caught:
            catalog.record_run(report(), at(1))
        other.execute("ROLLBACK")
        catalog.record_run(report(), at(1))
        assert len(catalog.runs()) == 2
    assert "another process" in caught.value.hint


def test_directory_locked_too_long_is_error_that_names_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.05)
    holder = start(HOLD_THE_DIRECTORY, path.parent)
    with pytest.raises(CatalogUnavailable, match="locked for more than") as caught:
        open_catalog(path)
    assert "another process" in caught.value.hint
    holder.communicate("\n")
    open_catalog(path)


def test_read_only_file_is_error_that_names_permissions(path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are closed to other users
        file = Path(shutil.copy(path, name))
        file.chmod(0o444)
        file.parent.chmod(0o555)
        told, _ = start(OPEN_AS_NOBODY, file, path.with_name("own.sqlite3")).communicate()
    assert "owner, mode and mount" in told


def test_catalog_migrated_by_another_version_during_use_is_not_written(path: Path) -> None:
    with open_catalog(path) as catalog:
        newer(path)
        with pytest.raises(CatalogUnavailable, match="while it was in use") as caught:
            catalog.record_run(report(), at(1))
    assert "restart" in caught.value.hint
