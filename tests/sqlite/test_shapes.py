"""Databases of every shape: the copy has the same pages as the source."""

import itertools
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from backupd.sqlite.inspection import checking
from backupd.sqlite.source import Source
from backupd.sqlite.worker.protocol import SnapshotSettings
from support.directories import rows, small_disk
from support.snapshots import Take, copy_into

pytestmark = pytest.mark.no_cover

PAGE_SIZES = [512 << n for n in range(8)]
ENCODINGS = itertools.cycle(["UTF-8", "UTF-16le", "UTF-16be"])
AUTO_VACUUM = itertools.cycle([0, 1, 2, 2, 1, 0, 1])
OF_THE_WRITER = {*range(24, 28), *range(40, 44), *range(92, 100)}  # two counters, and the version that wrote last
KEPT = ("encoding", "auto_vacuum", "freelist_count")
SCHEMA = """
CREATE TABLE s(a INTEGER, b TEXT) STRICT;
CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
CREATE TABLE g(a, b GENERATED ALWAYS AS (a + 1) VIRTUAL, c AS (a * 2) STORED);
CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT, t);
CREATE INDEX g_b ON g(b) WHERE c > 0;
CREATE VIRTUAL TABLE f USING fts5(t);
CREATE VIRTUAL TABLE r USING rtree(id, low, high);
INSERT INTO s VALUES (1, 'ä'), (2, '€'), (3, '😀');
INSERT INTO w VALUES ('k', x'00'), ('l', zeroblob(100000));
INSERT INTO g(a) VALUES (7);
INSERT INTO counted(t) VALUES ('a'), ('b');
INSERT INTO f VALUES ('hello world');
INSERT INTO r VALUES (1, 2.5, 3.5);
DELETE FROM counted WHERE id = 2;
CREATE TABLE gone AS SELECT zeroblob(50000);
DROP TABLE gone;
PRAGMA user_version=42;
PRAGMA application_id=7;
"""


@pytest.mark.parametrize(
    ("page_size", "encoding", "auto_vacuum", "journal_mode"),
    [
        (page_size, next(ENCODINGS), next(AUTO_VACUUM), journal_mode)
        for journal_mode in ("wal", "delete")
        for page_size in PAGE_SIZES
    ],
)
def test_copy_holds_same_pages_as_source(
    tmp_path: Path, take: Take, page_size: int, encoding: str, auto_vacuum: int, journal_mode: str
) -> None:
    path = tmp_path / "tasks.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(
        f"PRAGMA encoding='{encoding}'; PRAGMA page_size={page_size}; PRAGMA auto_vacuum={auto_vacuum}; "
        f"PRAGMA journal_mode={journal_mode}; {SCHEMA}"
    )
    dump = list(connection.iterdump())
    kept = [connection.execute(f"PRAGMA {name}").fetchall() for name in KEPT]
    connection.close()
    copy = take(path)
    source, made = path.read_bytes(), copy.file.path.read_bytes()
    assert len(source) == len(made) == copy.size_bytes
    assert {at for at in range(len(source)) if source[at] != made[at]} <= OF_THE_WRITER
    assert (copy.page_size, copy.user_version, copy.application_id) == (page_size, 42, 7)
    assert copy.journal_mode == ("wal" if journal_mode == "wal" else "rollback")
    with closing(sqlite3.connect(copy.file.path)) as connection:
        assert list(connection.iterdump()) == dump
    assert [rows(copy.file.path, f"PRAGMA {name}") for name in KEPT] == kept


def test_reserved_bytes_on_each_page_are_copied(tmp_path: Path, take: Take) -> None:
    code = (
        "import apsw, sys; c = apsw.Connection(sys.argv[1]); c.reserve_bytes(reserve=8);"
        "c.execute('CREATE TABLE t(a)'); c.execute('INSERT INTO t VALUES (randomblob(99999))')"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "tasks.db"], check=True)
    copy = take(tmp_path / "tasks.db")
    assert copy.file.path.read_bytes()[20] == 8
    assert copy.file.path.read_bytes()[100:] == (tmp_path / "tasks.db").read_bytes()[100:]
    with checking(copy.file, "3.54.1") as inspection:
        assert inspection().verdict.level == "full"


BIG_PAGE = 65536
LOCK_PAGE = (1 << 30) // BIG_PAGE + 1  # never used: SQLite's lock bytes lie there (sqlite.org/fileformat2.html §1.2)
FAR_PAGE = (4 << 30) // BIG_PAGE + 1  # its offset has more than 32 bits
MOST_LEAVES = 16_000  # of one trunk of the freelist


def make_large(path: Path) -> None:
    """Make a sparse database of more than 4 GiB whose data lie at both ends.

    All pages between are put on the freelist by hand, the last ones first.
    """
    connection = sqlite3.connect(path)
    connection.executescript(f"PRAGMA page_size={BIG_PAGE}; CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(99999))")
    connection.close()
    last = FAR_PAGE + 50
    near = [page for page in range(path.stat().st_size // BIG_PAGE + 1, FAR_PAGE) if page != LOCK_PAGE]
    trunks = [[*range(FAR_PAGE, last + 1)], *(near[n : n + MOST_LEAVES] for n in range(0, len(near), MOST_LEAVES))]
    with path.open("r+b") as stream:
        for (trunk, *leaves), following in itertools.zip_longest(
            trunks, (trunk[0] for trunk in trunks[1:]), fillvalue=0
        ):
            stream.seek((trunk - 1) * BIG_PAGE)
            stream.write(struct.pack(f">{len(leaves) + 2}I", following, len(leaves), *leaves))
        stream.truncate(last * BIG_PAGE)
        stream.seek(28)
        stream.write(struct.pack(">3I", last, FAR_PAGE, sum(map(len, trunks))))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE late AS SELECT randomblob(2000000) AS b")
    connection.close()


@pytest.mark.root
def test_sparse_database_beyond_lock_bytes_and_4_gib_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    make_large(path)
    assert path.stat().st_blocks * 512 < 10_000_000
    with (
        small_disk(tmp_path / "staging", "4200m") as staging,
        copy_into(staging, Source.inspect(path), SnapshotSettings()) as copy,
    ):
        assert copy.size_bytes == path.stat().st_size > 4 << 30
        with checking(copy.file, "3.40.1") as inspection:
            found = inspection()
        assert (found.verdict.level, found.verdict.damage, found.verdict.notes) == ("full", (), ())
        blobs = [rows(each, "SELECT b, a FROM late, t") for each in (path, copy.file.path)]
        assert blobs[0] == blobs[1]
        with copy.file.path.open("rb") as stream:
            stream.seek(4 << 30)
            assert blobs[0][0][0][:4096] in stream.read()
