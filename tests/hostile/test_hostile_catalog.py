"""A catalog with a planted trigger, view or index: nothing of it runs, and it is rebuilt."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from backupd.catalog import connection as catalog_connection
from backupd.catalog import open_catalog, read_catalog, read_copies
from backupd.catalog.connection import connect
from backupd.catalog.database import create
from backupd.errors import CatalogDamaged, CatalogForeign, CatalogUnavailable
from support.attackers import journal_that_removes
from support.command import Backupd, log_lines

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
PLANTED = {
    "a trigger without end": f"CREATE TRIGGER t BEFORE INSERT ON run BEGIN {ENDLESS}; END",
    "a trigger that lies": "CREATE TRIGGER t AFTER INSERT ON check_result BEGIN UPDATE copy SET state = 'present'; END",
    "a view": f"CREATE VIEW v AS {ENDLESS}",
    "an index": "CREATE INDEX i ON run(hex(zeroblob(100000000)))",
    "a table": "CREATE TABLE extra(a)",
    "statistics": "ANALYZE",
    "a column": "ALTER TABLE run ADD COLUMN b TEXT AS (hex(zeroblob(100000000)))",
    "a view in place of a table": f"ALTER TABLE copy RENAME TO old; CREATE VIEW copy AS {ENDLESS}",
}


@pytest.fixture
def path(backups: Path) -> Path:
    return backups / ".backupd" / "catalog.sqlite3"


def plant(path: Path, statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
@pytest.mark.parametrize("use", [open_catalog, read_catalog, read_copies])
def test_catalog_with_foreign_object_is_damaged_before_object_runs(
    tmp_path: Path, planted: str, use: Callable[[Path], object]
) -> None:
    path = tmp_path / "catalog.sqlite3"
    open_catalog(path)
    plant(path, planted)
    began = time.process_time()
    with pytest.raises(CatalogDamaged, match="its schema is not that of a catalog"):
        use(path)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_object_planted_in_open_catalog_does_not_run(tmp_path: Path, planted: str) -> None:
    path = tmp_path / "catalog.sqlite3"
    catalog = open_catalog(path)
    plant(path, planted)
    with pytest.raises(CatalogDamaged, match="its schema is not that of a catalog"):
        catalog.runs()


@pytest.mark.parametrize("mode", [b"\2\2", b"\1\1"], ids=["WAL", "rollback"])
def test_planted_journal_of_catalog_removes_no_file_elsewhere(
    backupd: Backupd, path: Path, tmp_path: Path, mode: bytes
) -> None:
    assert backupd("backup").code == 0
    victim = tmp_path / "victim"
    victim.write_text("of another app")
    journal = path.with_name(f"{path.name}-journal")
    for command in (["list"], ["status"], ["backup"], ["doctor"], ["catalog", "rebuild"], ["backup"]):
        with path.open("r+b") as catalog:
            catalog.seek(18)
            catalog.write(mode)
        journal.write_bytes(journal_that_removes(victim, path.stat().st_size // 4096))
        answer = backupd(*command, timeout_s=60)
        assert victim.exists(), command
        assert answer.code in {0, 1, 3}, answer
        assert "Traceback" not in answer.err
    assert answer.code == 0
    assert len(backupd("list", "--json").json) == 1


def test_backup_with_planted_trigger_is_published_and_rebuilt_catalog_has_all_runs(
    backupd: Backupd, path: Path
) -> None:
    assert backupd("backup").code == 0
    plant(path, PLANTED["a trigger without end"])
    assert backupd("backup").code == 3
    assert "its schema is not that of a catalog: t" in str(log_lines(path.parent.parent))
    assert backupd("catalog", "rebuild").code == 0
    with read_catalog(path) as catalog:
        assert [run.task for run in catalog.runs()].count("backup") >= 1
    assert path.with_name("catalog.sqlite3.damaged-1").exists()


def test_view_in_place_of_runs_is_not_read_by_rebuild(backupd: Backupd, path: Path) -> None:
    assert backupd("backup").code == 0
    plant(path, f"DROP TABLE run; CREATE VIEW run AS {ENDLESS}")
    began = time.monotonic()
    assert backupd("catalog", "rebuild").code == 0
    assert time.monotonic() - began < 20
    assert backupd("list").code == 0


SLOW = """
import sqlite3, sys, time
from contextlib import suppress
from pathlib import Path
from backupd.catalog import connection
from backupd.system.signals import exit_on_signals

exit_on_signals()
with suppress(sqlite3.OperationalError):
    catalog = connection.connect(Path(sys.argv[1]))
    print("ready", flush=True)
    catalog.execute(sys.argv[2]).fetchall()
time.sleep(9)  # what goes on without the catalog
"""


def test_endless_statement_ends_with_sigterm(tmp_path: Path) -> None:
    open_catalog(tmp_path / "catalog.sqlite3")
    command = [sys.executable, "-c", SLOW, tmp_path / "catalog.sqlite3", ENDLESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM


def test_endless_statement_is_interrupted_and_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    open_catalog(path)
    with (
        pytest.raises(CatalogUnavailable, match="interrupted") as caught,
        catalog_connection.catalog_errors(path),
        closing(connect(path, limit_s=0.2)) as connection,
    ):
        connection.execute(ENDLESS)
    assert not isinstance(caught.value, CatalogDamaged)


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_pipe_in_place_of_side_file_is_refused_without_waiting(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "catalog.sqlite3"
    open_catalog(path)
    os.mkfifo(f"{path}{suffix}")
    with pytest.raises(CatalogForeign, match=f"{suffix} is not a regular file"):
        open_catalog(path)


def test_file_replaced_by_link_during_opening_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = tmp_path / "catalog.sqlite3", tmp_path / "other.sqlite3"
    open_catalog(path)
    open_catalog(other)
    looked = catalog_connection.require_regular_file

    def swap_after_the_look(name: Path) -> tuple[int, int] | None:
        found = looked(name)
        if name.name == "catalog.sqlite3-journal":
            path.rename(tmp_path / "aside")
            path.symlink_to(other)
        return found

    monkeypatch.setattr(catalog_connection, "require_regular_file", swap_after_the_look)
    with pytest.raises((CatalogForeign, CatalogUnavailable), match=r"was replaced|symbolic link"):
        connect(path)


@pytest.mark.root
def test_new_catalog_belongs_to_owner_of_directory_and_hard_linked_file_is_unchanged(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 1234)
    path, foreign = tmp_path / "catalog.sqlite3", tmp_path / "of-root"
    create(path)
    assert path.stat().st_uid == 1234
    path.unlink()
    foreign.touch()
    path.hardlink_to(foreign)
    create(path)
    assert foreign.stat().st_uid == 0


LARGE = """
import sqlite3, sys
sqlite3.connect(sys.argv[1]).execute(f"CREATE VIEW v AS SELECT '{'x' * (70 << 20)}'")
"""


def test_catalog_that_uses_all_memory_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    open_catalog(path)
    subprocess.run([sys.executable, "-c", LARGE, path], check=True)
    with pytest.raises(CatalogDamaged):
        open_catalog(path)
