"""Damage is found, and distinguished from what this SQLite cannot check."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.bank import make_bank
from support.sqlite_checks import NUMBERS, inspect, make, overwrite_page, rewrite, verdict


def test_sound_database_is_fully_verified_and_counted(tmp_path: Path) -> None:
    make_bank(tmp_path / "bank.db")
    found = inspect(tmp_path / "bank.db")
    assert (found.verdict.level, found.verdict.damage, found.verdict.notes) == ("full", (), ())
    assert found.contents is not None
    assert found.contents.tables == {"account": 1000, "ledger": 0}


@pytest.mark.parametrize("page", range(1, 20, 3))
def test_page_with_overwritten_header_is_corruption(tmp_path: Path, page: int) -> None:
    path = tmp_path / "bank.db"
    make_bank(path)
    overwrite_page(path, page + 1)
    found = inspect(path)
    assert found.verdict.level == "corrupt"
    assert found.verdict.damage
    assert found.contents is None


def test_row_missing_in_ordinary_index_is_corruption(tmp_path: Path) -> None:
    path = make(tmp_path / "t.db", "CREATE TABLE t(a, b)", f"INSERT INTO t {NUMBERS} SELECT i, i FROM n")
    make(path, "CREATE INDEX t_a ON t(a)")
    rewrite(path, "t(a)", "t(b)")
    make(path, "UPDATE t SET b = -b WHERE a = 77")
    rewrite(path, "t(b)", "t(a)")
    found = verdict(path)
    assert found.level == "corrupt"
    assert any("t_a" in message for message in found.damage)


@pytest.mark.parametrize(
    "needs",
    [
        "CREATE INDEX odd ON t(app_function(a))",
        "CREATE INDEX odd ON t(a) WHERE app_function(a) > 1",
        "CREATE INDEX odd ON t(b COLLATE app_collation)",
    ],
)
def test_schema_that_needs_functions_of_app_is_structurally_verified(tmp_path: Path, needs: str) -> None:
    path = make(tmp_path / "t.db", "CREATE TABLE t(a, b)", f"INSERT INTO t {NUMBERS} SELECT i, i FROM n", needs)
    found = inspect(path)
    assert (found.verdict.level, found.verdict.damage) == ("structural", ())
    assert found.contents is not None
    assert found.contents.tables == {"t": 500}


def test_damage_beside_missing_functions_of_app_is_found(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        "CREATE TABLE t(a, b)",
        f"INSERT INTO t {NUMBERS} SELECT i, hex(randomblob(200)) FROM n",
        "CREATE INDEX odd ON t(app_function(a))",
    )
    overwrite_page(path, 6)
    assert verdict(path).level == "corrupt"


def test_missing_tokenizer_leaves_other_tables_fully_verified(tmp_path: Path) -> None:
    path = tmp_path / "fts.db"
    code = (
        "import apsw, apsw.fts5, sys; c = apsw.Connection(sys.argv[1]);"
        "c.register_fts5_tokenizer('own', apsw.fts5.UnicodeWordsTokenizer);"
        "c.execute(\"CREATE VIRTUAL TABLE f USING fts5(x, tokenize='own')\");"
        "c.execute(\"INSERT INTO f VALUES ('hello world')\"); c.execute('CREATE TABLE t(a)')"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    found = verdict(path, "3.54.1")
    assert (found.level, found.damage) == ("full", ())
    assert "integrity_check without virtual tables" in found.checks


def test_expression_index_filled_by_another_sqlite_is_note(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        "CREATE TABLE t(a, g AS (a + 0))",
        f"INSERT INTO t(a) {NUMBERS} SELECT i FROM n",
        "CREATE INDEX e ON t(a + 1)",
        "CREATE INDEX v ON t(g)",
    )
    rewrite(path, "t(a + 1)", "t(a + 2)")
    rewrite(path, "(a + 0)", "(a + 3)")
    found = verdict(path)
    assert (found.level, found.damage) == ("full", ())
    assert any("index e" in note for note in found.notes)
    assert any("index v" in note for note in found.notes)


def test_damage_behind_hundred_harmless_findings_is_found(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        "CREATE TABLE a(x)",
        f"INSERT INTO a {NUMBERS} SELECT i FROM n",
        "CREATE INDEX e ON a(x + 1)",
        "CREATE TABLE z(x, y)",
        f"INSERT INTO z {NUMBERS} SELECT i, i FROM n",
        "CREATE INDEX z_x ON z(x)",
    )
    rewrite(path, "a(x + 1)", "a(x + 2)")
    rewrite(path, "z(x)", "z(y)")
    make(path, "UPDATE z SET y = -y WHERE x = 77")
    rewrite(path, "z(y)", "z(x)")
    found = verdict(path)
    assert (found.level, len(found.notes)) == ("corrupt", 100)
    assert any("z_x" in message for message in found.damage)


def test_violated_constraints_and_foreign_keys_are_not_damage(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        "CREATE TABLE t(a INT CHECK (app_function(a) > 0), b TEXT)",
        "INSERT INTO t VALUES (1, NULL)",
        "CREATE TABLE p(id INTEGER PRIMARY KEY)",
        "CREATE TABLE c(p REFERENCES p(id))",
        "INSERT INTO c VALUES (1), (2)",
    )
    rewrite(path, "b TEXT", "b TEXT NOT NULL")
    found = verdict(path)
    assert (found.level, found.damage, found.foreign_key_violations) == ("full", (), 2)
    assert any("NULL value in t.b" in note for note in found.notes)


def test_schema_of_newer_sqlite_differs_from_schema_of_another_engine(tmp_path: Path) -> None:
    path = make(tmp_path / "t.db", "CREATE TABLE t(a)", "CREATE TABLE u(a)", f"INSERT INTO u {NUMBERS} SELECT i FROM n")
    rewrite(path, "CREATE TABLE t(a)", "CREATE TABLE t(a FROBNICATE (b) ++)")
    newer = inspect(path, "3.99.0")
    assert newer.verdict.level == "structural"
    assert newer.contents is not None
    assert newer.contents.tables["u"] == 500
    assert newer.verdict.doubt == ""
    older = verdict(path, "3.40.1")
    assert (older.level, older.damage) == ("structural", ())
    assert "t is not readable by SQLite" in older.doubt
    assert "made by another engine" in older.doubt
