"""The limits of this SQLite: no sound database is reported damaged, and no unverified one sound."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backupd.sqlite.file_format import set_journal_mode
from support.bank import make_bank
from support.held import written
from support.sqlite_checks import NUMBERS, inspect, make, overwrite_page, rewrite, verdict

WITH_STAND_INS = "quick_check with stand-ins"
FILLED = ("CREATE TABLE z(a)", f"INSERT INTO z {NUMBERS} SELECT hex(randomblob(200)) FROM n")


def damage_table(path: Path, table: str) -> None:
    """Overwrite the root page of a table."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA writable_schema=ON")  # opens what this SQLite cannot parse
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    connection.close()
    overwrite_page(path, root)


def change_schema(path: Path, statement: str) -> None:
    """Change the schema of a database that this library cannot parse."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute(statement)
    connection.commit()
    connection.close()


def assert_structural_until_damaged(path: Path, writer: str = "3.40.1") -> None:
    found = verdict(path, writer)
    assert (found.level, found.damage) == ("structural", ())
    assert found.notes
    damage_table(path, "z")
    assert verdict(path, writer).level == "corrupt"


def test_generated_column_with_function_of_app_is_structurally_verified(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        *FILLED,
        "CREATE TABLE t(a, b AS (app_function(a)) NOT NULL)",
        f"INSERT INTO t(a) {NUMBERS} SELECT i FROM n",
    )
    notes = verdict(path).notes
    assert all("unknown function: app_function()" in note for note in notes)
    assert_structural_until_damaged(path)


def test_key_with_collation_of_app_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    connection = sqlite3.connect(path)
    connection.create_collation("reverse", lambda a, b: (a < b) - (a > b))
    for statement in (
        *FILLED,
        "CREATE TABLE t(k TEXT COLLATE reverse PRIMARY KEY, v) WITHOUT ROWID",
        f"INSERT INTO t {NUMBERS} SELECT i, i FROM n",
        "CREATE UNIQUE INDEX t_v ON t(v COLLATE reverse)",
    ):
        connection.execute(statement)
    connection.commit()
    connection.close()
    assert_structural_until_damaged(path)


def test_built_in_function_that_refuses_stored_value_is_no_damage(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        *FILLED,
        "CREATE TABLE t(body TEXT, id AS (json_extract(body, '$.id')) VIRTUAL NOT NULL)",
        """INSERT INTO t(body) VALUES ('{"id": 1}')""",
    )
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute("UPDATE sqlite_master SET sql = 'CREATE TABLE t(body TEXT)' WHERE name = 't'")
    connection.commit()
    connection.close()
    make(path, "INSERT INTO t VALUES ('{no json')")
    rewrite(path, "CREATE TABLE t(body TEXT)", "CREATE TABLE t(body TEXT, id AS (json_extract(body, '$.id')) NOT NULL)")
    assert any("malformed JSON" in note for note in verdict(path).notes)
    assert WITH_STAND_INS in verdict(path).checks
    assert_structural_until_damaged(path)


def test_app_function_with_name_of_built_in_function_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    connection = sqlite3.connect(path)
    connection.create_function("lower", 2, lambda a, _b: a, deterministic=True)
    for statement in (*FILLED, "CREATE TABLE t(a, b)", "CREATE INDEX t_ab ON t(lower(a, b))"):
        connection.execute(statement)
    connection.commit()
    connection.close()
    found = inspect(path)
    assert any("wrong number of arguments" in note for note in found.verdict.notes)
    assert found.contents is not None
    assert found.contents.tables == {"t": 0, "z": 500}
    assert_structural_until_damaged(path)


def test_schema_of_newer_sqlite_with_functions_of_app_is_checked_in_part(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        *FILLED,
        "CREATE TABLE t(a)",
        "CREATE TABLE u(a, b AS (app_function(a)) NOT NULL)",
        "INSERT INTO u(a) VALUES (1)",
    )
    rewrite(path, "CREATE TABLE t(a)", "CREATE TABLE t(a FROBNICATE (b) ++)")
    assert_structural_until_damaged(path, writer="3.99.0")


WRITERS = pytest.mark.parametrize("writer", ["3.40.1", "3.99.0", "unknown"])
FOREIGN = "CREATE TABLE t(a) RANDOM ROWID"  # libSQL


def make_foreign(path: Path, *statements: str, foreign: str = FOREIGN) -> Path:
    """Make a database of 500 rows in `t` and `z` each, whose table `t` this library cannot parse."""
    make(path, *statements, *FILLED, "CREATE TABLE t(a)", f"INSERT INTO t {NUMBERS} SELECT hex(randomblob(200)) FROM n")
    rewrite(path, "CREATE TABLE t(a)", foreign)
    return path


@WRITERS
@pytest.mark.parametrize("table", ["t", "z"])
@pytest.mark.parametrize("foreign", [FOREIGN, "CREATE TABLE t(a uuid) STRICT", "CREATE TABLE t(a FROBNICATE (b) ++)"])
def test_tables_of_another_engine_are_counted_and_their_pages_are_checked(
    tmp_path: Path, writer: str, table: str, foreign: str
) -> None:
    path = make_foreign(tmp_path / "t.db", foreign=foreign)
    found = inspect(path, writer)
    assert (found.verdict.level, found.verdict.damage, bool(found.verdict.doubt)) == (
        "structural",
        (),
        writer != "3.99.0",
    )
    assert found.contents is not None
    assert found.contents.tables == {"t": 500, "z": 500}
    damage_table(path, table)
    assert verdict(path, writer).level == "corrupt"


@WRITERS
@pytest.mark.parametrize("broken", ["CREATE TABLE t)a)", "CRE\x01TE TABLE t(a)", "CREATE TABLE t(a", "CREATE TABLE"])
def test_malformed_schema_is_damage_with_any_writer(tmp_path: Path, writer: str, broken: str) -> None:
    path = make(tmp_path / "t.db", "CREATE TABLE t(a)")
    rewrite(path, "CREATE TABLE t(a)", broken)
    found = verdict(path, writer)
    assert found.level == "corrupt"
    assert "malformed database schema" in found.damage[0]


def test_damage_behind_object_of_another_engine_is_found(tmp_path: Path) -> None:
    path = make_foreign(tmp_path / "t.db")
    change_schema(path, "UPDATE sqlite_master SET rowid = 99, sql = 'CREATE TABLE z)a)' WHERE name = 'z'")
    found = verdict(path)
    assert found.level == "corrupt"
    assert any("z is not readable" in message for message in found.damage)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("DELETE FROM sqlite_master WHERE name = 'z'", "belongs to nothing"),
        (
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master AS o WHERE o.name = 't')",
            "belongs to two things",
        ),
        ("UPDATE sqlite_master SET rootpage = 99999 WHERE name = 't'", ""),
    ],
)
def test_page_of_foreign_database_in_no_object_or_in_two_is_corruption(tmp_path: Path, loss: str, said: str) -> None:
    path = make_foreign(tmp_path / "t.db")
    change_schema(path, loss)
    found = verdict(path)
    assert found.level == "corrupt"
    assert any(said in message for message in found.damage)


@pytest.mark.parametrize("auto_vacuum", ["NONE", "FULL", "INCREMENTAL"])
@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_free_pages_and_pointer_maps_of_foreign_database_are_no_damage(
    tmp_path: Path, auto_vacuum: str, page_size: int
) -> None:
    path = make_foreign(
        tmp_path / "t.db",
        f"PRAGMA page_size={page_size}",
        f"PRAGMA auto_vacuum={auto_vacuum}",
        "CREATE TABLE gone(v)",
        f"INSERT INTO gone {NUMBERS} SELECT zeroblob(3000) FROM n",
        "CREATE TABLE keyed(k PRIMARY KEY) WITHOUT ROWID",
        f"INSERT INTO keyed {NUMBERS} SELECT hex(randomblob(100)) FROM n",
        "DROP TABLE gone",
    )
    found = inspect(path)
    assert (found.verdict.level, found.verdict.damage) == ("structural", ())
    assert found.contents is not None
    assert found.contents.tables == {"t": 500, "z": 500, "keyed": 500}


def test_journal_mode_of_foreign_database_can_be_set(tmp_path: Path) -> None:
    path = make_foreign(tmp_path / "t.db")
    assert set_journal_mode(written(path), "wal")
    assert path.read_bytes()[18:20] == b"\x02\x02"
    assert verdict(path).level == "structural"


def test_table_with_more_columns_than_library_limit_is_no_damage(tmp_path: Path) -> None:
    columns = ", ".join(f"c{number}" for number in range(2001))
    path = make_foreign(tmp_path / "t.db", foreign=f"CREATE TABLE t({columns})")
    found = inspect(path)
    assert (found.verdict.level, found.verdict.damage, found.verdict.doubt) == ("structural", (), "")
    assert any("made with other limits: too many columns on t" in note for note in found.verdict.notes)
    assert found.contents is not None
    assert found.contents.tables["t"] == 500
    damage_table(path, "t")
    assert verdict(path).level == "corrupt"


SHORT = """
import apsw, json, sys
from backupd.system.resources import NORMAL
from backupd.sqlite.worker import integrity_check
opened = integrity_check.open_immutable
def short(path, held):
    connection = opened(path, held)
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, 50_000)
    return connection
integrity_check.open_immutable = short
copy = open(sys.argv[1], "rb")
request = {"path": sys.argv[1], "held": copy.fileno(), "writer": "3.40.1", "priority": NORMAL._asdict()}
request["thorough"] = "all"
print(json.dumps(integrity_check.check_copy(request, None)))
"""


def test_values_longer_than_library_limit_are_no_damage_and_their_pages_are_checked(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        *FILLED,
        "CREATE TABLE t(a TEXT NOT NULL, b AS (length(a)))",
        "INSERT INTO t VALUES (zeroblob(90000))",
        "CREATE INDEX i ON t(a)",
        "CREATE INDEX e ON t(upper(a))",
    )

    def check() -> dict[str, Any]:
        done = subprocess.run([sys.executable, "-c", SHORT, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    found = check()
    assert (found["verdict"]["level"], found["verdict"]["damage"]) == ("structural", [])
    assert found["contents"]["tables"] == {"t": 1, "z": 500}
    damage_table(path, "t")
    assert check()["verdict"]["level"] == "corrupt"


def test_rows_are_counted_in_table_where_indexes_are_unchecked(tmp_path: Path) -> None:
    """The vector indexes of libSQL are empty."""
    path = make(tmp_path / "t.db", *FILLED, "CREATE TABLE e(a)", "CREATE INDEX i ON e(a)")
    change_schema(
        path,
        "UPDATE sqlite_master SET tbl_name = 'z', sql = 'CREATE INDEX i ON z(libsql_vector_idx(a))' WHERE name = 'i'",
    )
    found = inspect(path)
    assert (found.verdict.level, found.verdict.damage) == ("structural", ())
    assert found.contents is not None
    assert found.contents.tables == {"e": 0, "z": 500}


def test_database_that_no_check_can_read_is_not_sound(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    make_bank(path)
    with path.open("r+b") as stream:
        stream.seek(44)  # the schema format, of which there are four
        stream.write(b"\0\0\0\x09")
    found = inspect(path)
    assert found.verdict.level == "corrupt"
    assert found.verdict.damage == ("no check can run: unsupported file format",)
    assert found.contents is None


def test_double_quoted_strings_of_old_schemas_are_no_damage(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        'CREATE TABLE t(a, b DEFAULT "none", CHECK (b != "never"))',
        f"INSERT INTO t(a) {NUMBERS} SELECT i FROM n",
        'CREATE INDEX some ON t(a) WHERE b = "none"',
        'CREATE INDEX tagged ON t(a || "tag")',
    )
    found = verdict(path)
    assert (found.level, found.damage, found.notes) == ("full", (), ())


def test_index_on_text_of_numbers_is_note_across_sqlite_versions(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        "CREATE TABLE t(a TEXT, g REAL AS (CAST(a AS REAL)))",
        "INSERT INTO t(a) VALUES ('114.536303490361'), ('289.083727443171'), ('425.706666161247')",
        "CREATE INDEX e ON t(CAST(a AS REAL))",
        "CREATE INDEX v ON t(g)",
    )
    found = verdict(path)
    assert (found.level, found.damage) == ("full", ())


def test_expression_index_off_by_last_bit_is_note(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        "CREATE TABLE t(a)",
        "INSERT INTO t VALUES (114.5), (289.25)",
        "CREATE INDEX e ON t(a * 1.0000000000000002)",
    )
    rewrite(path, "a * 1.0000000000000002", "a * 1.0")
    found = verdict(path)
    assert (found.level, found.damage) == ("full", ())
    assert any("index e stores an imprecise floating-point value" in note for note in found.notes)


@pytest.mark.parametrize(
    ("indexed", "level"), [("upper(a)", "full"), ("a", "corrupt")], ids=["expression", "ordinary column"]
)
def test_value_different_in_case_is_damage_in_ordinary_index_only(tmp_path: Path, indexed: str, level: str) -> None:
    path = make(
        tmp_path / "t.db",
        "CREATE TABLE t(a, b)",
        "INSERT INTO t VALUES ('Abc', 'aBC')",
        f"CREATE INDEX e ON t({indexed} COLLATE NOCASE)",
    )
    rewrite(path, f"{indexed} COLLATE", "lower(a) COLLATE" if indexed != "a" else "b COLLATE")
    found = verdict(path)
    assert (found.level, "row 1 values differ from index e" in found.notes + found.damage) == (level, True)


def test_line_end_in_index_name_makes_findings_no_damage(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db", "CREATE TABLE t(a)", "INSERT INTO t VALUES (1)", 'CREATE INDEX "two\nlines" ON t(a + 1)'
    )
    rewrite(path, "a + 1", "a + 2")
    found = verdict(path)
    assert (found.level, found.damage) == ("full", ())
    assert "row 1 missing from index two\nlines" in found.notes


def test_types_and_nulls_against_schema_are_noted_once_each(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        "CREATE TABLE t(a, b)",
        f"INSERT INTO t {NUMBERS} SELECT 'text', NULL FROM n",
    )
    rewrite(path, "CREATE TABLE t(a, b)", "CREATE TABLE t(a INTEGER, b TEXT NOT NULL) STRICT")
    found = verdict(path)
    assert (found.level, found.damage) == ("full", ())
    assert set(found.notes) == {"non-INTEGER value in t.a", "NULL value in t.b"}
    assert len(found.notes) == 2


def test_damaged_full_text_index_is_note(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        "CREATE VIRTUAL TABLE f USING fts5(x)",
        f"INSERT INTO f {NUMBERS} SELECT 'word ' || i FROM n",
        "UPDATE f_content SET c0 = 'another' WHERE id = 7",
    )
    found = verdict(path)
    assert (found.level, found.damage) == ("full", ())
    assert any("inverted index for FTS5 table main.f" in note for note in found.notes)


def test_module_of_app_leaves_other_tables_fully_verified(tmp_path: Path) -> None:
    path = make(tmp_path / "t.db", *FILLED, "CREATE VIRTUAL TABLE f USING fts5(x)")
    rewrite(path, "USING fts5(x)", "USING own_module(x)")
    found = verdict(path)
    assert (found.level, found.damage) == ("full", ())
    damage_table(path, "z")
    assert verdict(path).level == "corrupt"
