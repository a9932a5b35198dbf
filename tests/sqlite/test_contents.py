"""The contents of a copy: rows by table, and the digest of the schema."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.bank import make_bank
from support.sqlite_checks import NUMBERS, contents_of, make, patch, rewrite, verdict


def test_rows_are_counted_in_tables_only(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        "CREATE TABLE plain(a)",
        f"INSERT INTO plain {NUMBERS} SELECT i FROM n",
        'CREATE TABLE "odd "" name"(a)',
        'INSERT INTO "odd "" name" VALUES (1)',
        "CREATE TABLE keyed(k TEXT COLLATE app_collation PRIMARY KEY) WITHOUT ROWID",
        "INSERT INTO keyed VALUES ('a'), ('b')",
        "CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "CREATE TABLE own(a, b AS (app_function(a)))",
        "INSERT INTO own(a) VALUES (1)",
        "CREATE VIEW v AS SELECT * FROM plain",
    )
    found = contents_of(path)
    assert found.tables == {"plain": 500, 'odd " name': 1, "keyed": 2, "counted": 0, "own": 1}
    assert found.virtual == {}


def test_virtual_tables_are_counted_with_their_shadow_tables(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        "CREATE TABLE docs(id INTEGER PRIMARY KEY, t)",
        f"INSERT INTO docs {NUMBERS} SELECT i, 'word ' || i FROM n",
        'CREATE VIRTUAL TABLE "odd "" [n]\'"/* using */USING\nFTS5(x)',
        f'INSERT INTO "odd "" [n]\'" {NUMBERS} SELECT \'word \' || i FROM n WHERE i < 8',
        "CREATE VIRTUAL TABLE bare USING fts5(x, content='')",
        f"INSERT INTO bare(rowid, x) {NUMBERS} SELECT i, 'word ' || i FROM n WHERE i < 6",
        "CREATE VIRTUAL TABLE outside USING 'fts5'(t, content='docs', content_rowid='id')",
        "CREATE VIRTUAL TABLE box USING rtree(id, a, b)",
        "INSERT INTO box VALUES (1, 2, 3)",
        "CREATE VIRTUAL TABLE words USING fts5vocab(bare, row)",
    )
    found = contents_of(path)
    name = "odd \" [n]'"
    assert found.virtual == {name: "fts5", "bare": "fts5", "outside": "fts5", "box": "rtree", "words": "fts5vocab"}
    assert {table: found.tables[table] for table in found.virtual} == {
        name: 7,
        "bare": 5,
        "outside": 500,
        "box": 1,
        "words": None,
    }
    assert (found.tables[f"{name}_content"], found.tables["bare_docsize"], found.tables["box_rowid"]) == (7, 5, 1)
    assert len(found.tables) == 1 + 5 + 5 + 4 + 4 + 3


def test_virtual_table_without_module_is_counted_by_shadow_tables(tmp_path: Path) -> None:
    path = make(tmp_path / "t.db", "CREATE VIRTUAL TABLE f USING fts5(x)", "INSERT INTO f VALUES ('a'), ('b')")
    before = contents_of(path)
    rewrite(path, "fts5(x)", "fts5(x, tokenize = own)")
    assert contents_of(path).tables == before.tables
    rewrite(path, "fts5(x, tokenize = own)", "own_module(x)")
    assert contents_of(path).tables == {**before.tables, "f": None}


SHORT_WAITS = """
import sys
from backupd.sqlite.worker import integrity_check
integrity_check._COUNT_S = 0.05
copy = open(sys.argv[1], "rb")
connection = integrity_check.open_immutable(sys.argv[1], copy.fileno())
print(integrity_check.contents_of(connection, {}, indexes_compared=True)["tables"]["f"])
"""


def test_virtual_table_with_endless_rows_is_not_counted(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        "CREATE VIEW endless(x) AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
        "CREATE VIRTUAL TABLE f USING fts5(x, content=endless, content_rowid=x)",
    )
    said = subprocess.run(
        [sys.executable, "-c", SHORT_WAITS, path], capture_output=True, text=True, check=True, timeout=30
    )
    assert said.stdout == "None\n"


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_database_without_tables_has_empty_table_counts(tmp_path: Path, encoding: str) -> None:
    path = make(tmp_path / "t.db", f"PRAGMA encoding='{encoding}'", "PRAGMA user_version=1")
    assert contents_of(path).tables == {}


def test_table_names_outside_utf8_are_escaped(tmp_path: Path) -> None:
    path = make(tmp_path / "t.db", "CREATE TABLE cafXX(a)", "INSERT INTO cafXX VALUES (1)", "CREATE TABLE u(a)")
    patch(path, b"cafXX", b"caf\xe9\xe8")
    assert verdict(path).level == "full"
    assert contents_of(path).tables == {"caf\\xe9\\xe8": None, "u": 0}


def test_schema_digest_is_equal_in_utf8_and_utf16(tmp_path: Path) -> None:
    digests = {
        contents_of(
            make(tmp_path / f"{encoding}.db", f"PRAGMA encoding='{encoding}'", "CREATE TABLE t(ä)")
        ).schema_sha256
        for encoding in ("UTF-8", "UTF-16le", "UTF-16be")
    }
    assert len(digests) == 1


SCHEMA = ("CREATE TABLE t(a)", "CREATE TABLE u(a)", "CREATE INDEX i ON t(a)")


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """A small schema."""
    return make(tmp_path / "t.db", *SCHEMA)


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE w(a)",
        "ALTER TABLE t ADD COLUMN b",
        "ALTER TABLE t RENAME TO tt",
        "DROP TABLE u",
        "DROP INDEX i",
        "CREATE UNIQUE INDEX j ON t(a)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE f USING fts5(x)",
    ],
)
def test_schema_digest_changes_with_schema(schema: Path, change: str) -> None:
    before = contents_of(schema).schema_sha256
    make(schema, change)
    assert contents_of(schema).schema_sha256 != before


def test_schema_digest_is_unchanged_by_rows_and_pragmas(schema: Path, tmp_path: Path) -> None:
    before = contents_of(schema).schema_sha256
    for change in (
        "INSERT INTO t VALUES (1)",
        "PRAGMA user_version=9",
        "PRAGMA journal_mode=WAL",
        "REINDEX",
        "DELETE FROM t",
        "VACUUM",
    ):
        make(schema, change)
    assert contents_of(schema).schema_sha256 == before
    turned_round = make(tmp_path / "other.db", SCHEMA[1], SCHEMA[0], SCHEMA[2])
    assert contents_of(turned_round).schema_sha256 == before


def test_copy_marked_as_wal_is_read_unchanged_and_creates_no_side_files(tmp_path: Path) -> None:
    directory = tmp_path / "staging"
    directory.mkdir()
    make_bank(directory / "copy.db", "wal")
    before = (directory / "copy.db").read_bytes()
    assert before[18:20] == b"\x02\x02"
    assert contents_of(directory / "copy.db").tables == {"account": 1000, "ledger": 0}
    assert [*directory.iterdir()] == [directory / "copy.db"]
    assert (directory / "copy.db").read_bytes() == before


def test_foreign_key_violations_are_counted_and_not_damage(tmp_path: Path) -> None:
    path = make(
        tmp_path / "t.db",
        "CREATE TABLE p(id INTEGER PRIMARY KEY)",
        "CREATE TABLE c(p REFERENCES p(id))",
        "INSERT INTO c VALUES (1), (2), (NULL)",
    )
    found = verdict(path)
    assert (found.level, found.foreign_key_violations) == ("full", 2)
    make(path, "INSERT INTO p VALUES (1), (2)")
    assert verdict(path).foreign_key_violations == 0
