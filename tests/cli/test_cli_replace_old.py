"""`backupd restore` in place: what happens to an old database that its app or disk has damaged."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from keyboard import Keyboard

from backupd.tasks.restore import database as replacing
from support.app import running_app
from support.bank import is_balanced, transfers
from support.command import Backupd
from support.directories import beside, sha256
from support.faults import traced
from support.processes import die_in_a_transaction


def test_kept_database_includes_wal_of_dead_app(typed: Keyboard, database: Path, generation: str) -> None:
    assert generation
    with running_app(database) as app:
        app.sql("PRAGMA wal_autocheckpoint=0")
        app.sql("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
        app.kill()
        assert Path(f"{database}-wal").stat().st_size > 0
        facts = typed("restore", "--json").json
    assert transfers(Path(facts["kept"])) == 1
    assert transfers(database) == 0
    assert is_balanced(database)
    assert not {name for name in beside(database) if name.startswith("tasks.db-")}


def test_kept_database_has_open_transaction_of_dead_app_rolled_back(
    typed: Keyboard, database: Path, generation: str
) -> None:
    assert generation
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=delete")
    die_in_a_transaction(database)
    assert Path(f"{database}-journal").exists()
    facts = typed("restore", "--json").json
    assert not Path(f"{database}-journal").exists()
    assert is_balanced(database)
    with closing(sqlite3.connect(facts["kept"])) as kept:
        assert kept.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("damage", ["garbage", "cut off", "empty"])
def test_damaged_database_is_replaced_and_kept_unchanged_with_side_files(
    typed: Keyboard, database: Path, generation: str, damage: str
) -> None:
    assert generation
    raw = {"garbage": b"no database " * 1000, "cut off": database.read_bytes()[:5000], "empty": b""}[damage]
    database.write_bytes(raw)
    Path(f"{database}-wal").write_bytes(b"what nobody can read")
    facts = typed("restore", "--json").json
    assert sha256(database) == facts["snapshot_sha256"]
    assert Path(facts["kept"]).read_bytes() == raw
    assert facts["old_damage"]
    assert not Path(f"{database}-wal").exists()
    assert typed("restore", "--undo").code == 0
    assert database.read_bytes() == raw
    if damage != "cut off":  # what SQLite can open it puts right itself
        assert Path(f"{database}-wal").read_bytes() == b"what nobody can read"


@pytest.mark.parametrize("first", ["1", "2"])
def test_database_with_read_errors_is_replaced_and_kept(
    backupd: Backupd, database: Path, generation: str, tmp_path: Path, first: str
) -> None:
    before = database.read_bytes()
    ended, calls = traced(
        backupd.environment(),
        tmp_path,
        "read,pread64",
        f"read,pread64:error=EIO:when={first}+",
        arguments=("restore", generation, "--json"),
        path=database,
    )
    assert any("(INJECTED)" in call.text for call in calls)
    assert ended.code == 0, ended
    assert ended.json["old_damage"]
    assert Path(ended.json["kept"]).read_bytes() == before
    assert sha256(database) == ended.json["snapshot_sha256"]


def test_old_database_with_schema_of_newer_sqlite_is_not_damaged(
    typed: Keyboard, database: Path, generation: str
) -> None:
    assert generation
    with closing(sqlite3.connect(database, isolation_level=None)) as app:
        app.execute("PRAGMA writable_schema=on")
        app.execute("INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 2, 'CREATE TABLE x(a) OF THE FUTURE')")
    answer = typed("restore", "--json")
    assert (answer.code, answer.json["old_damage"]) == (0, ""), answer


def test_database_created_by_app_during_restore_is_kept_and_reported(
    typed: Keyboard, database: Path, generation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generation
    raw = database.read_bytes()
    database.unlink()
    apply_ownership = replacing.apply_ownership

    def late(*arguments: Any) -> tuple[str, str]:
        database.write_bytes(raw)
        return apply_ownership(*arguments)

    monkeypatch.setattr(replacing, "apply_ownership", late)
    facts = typed("restore", "--json").json
    assert Path(facts["kept"]).read_bytes() == raw
    assert facts["undo"]


def test_missing_database_is_restored_and_side_files_of_dead_app_are_set_aside(
    typed: Keyboard, database: Path, generation: str
) -> None:
    assert generation
    database.unlink()
    Path(f"{database}-wal").write_bytes(b"stale")
    facts = typed("restore", "--json").json
    assert (sha256(database), facts["kept"], facts["undo"]) == (facts["snapshot_sha256"], None, None)
    (aside,) = database.parent.glob("tasks.db.pre-restore-*-wal")
    assert aside.read_bytes() == b"stale"
    assert not {name for name in beside(database) if name.startswith("tasks.db-")}


def test_journal_without_database_is_kept_and_reported(typed: Keyboard, database: Path, generation: str) -> None:
    assert generation
    database.unlink()
    Path(f"{database}-journal").write_bytes(b"a journal that may hold data")
    answer = typed("restore")
    assert answer.code == 0, answer
    (kept,) = database.parent.glob("tasks.db.pre-restore-*-journal")
    assert kept.read_bytes() == b"a journal that may hold data"
    assert f"note     tasks.db was missing, and tasks.db-journal existed: kept as {kept}" in answer.out


def test_doctor_names_old_databases_until_removed(typed: Keyboard, newer: str) -> None:
    assert newer
    kept = Path(typed("restore", "--json").json["kept"])
    said = typed("doctor").out
    assert kept.name in said
    kept.unlink()
    assert kept.name not in typed("doctor").out
