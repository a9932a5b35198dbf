"""One flipped bit, in each place where a check can find it, is corruption."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from backupd.model import Verdict
from support.sqlite_checks import verdict

pytestmark = pytest.mark.no_cover

PAGE = 1024
MAP = """
import apsw, json, sys
connection = apsw.Connection(sys.argv[1], flags=apsw.SQLITE_OPEN_READONLY)
print(json.dumps(connection.execute("SELECT name, pagetype, pageno FROM dbstat").fetchall()))
"""


class Sound:
    """The bytes of a sound database, and which page holds what."""

    def __init__(self, path: Path) -> None:
        self.bytes = path.read_bytes()
        pages = subprocess.run([sys.executable, "-c", MAP, path], capture_output=True, check=True).stdout
        self._pages = json.loads(pages)
        self.trunk = int.from_bytes(self.bytes[32:36], "big")

    def page(self, table: str, kind: str) -> int:
        """Return the offset of the second page of a kind (the first one may be the root)."""
        found = sorted(number for name, pagetype, number in self._pages if (name, pagetype) == (table, kind))
        return (found[min(1, len(found) - 1)] - 1) * PAGE


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """A database with interior pages, overflow pages, an index and free pages."""
    path = tmp_path_factory.mktemp("sound") / "tasks.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA page_size={PAGE}")
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, k TEXT, v BLOB)")
    connection.execute("CREATE INDEX t_k ON t(k)")
    connection.executemany("INSERT INTO t(k, v) VALUES (?, zeroblob(60))", ((f"key {n:06}",) for n in range(2000)))
    connection.execute("CREATE TABLE long(b)")
    connection.execute("INSERT INTO long VALUES (zeroblob(20000))")
    connection.execute("CREATE TABLE gone AS SELECT zeroblob(100000)")
    connection.execute("DROP TABLE gone")
    connection.commit()
    connection.close()
    return Sound(path)


def verdict_on(path: Path, data: bytes) -> Verdict:
    path.write_bytes(data)
    return verdict(path)


def test_unchanged_database_is_sound(tmp_path: Path, sound: Sound) -> None:
    found = verdict_on(tmp_path / "copy.db", sound.bytes)
    assert (found.level, found.damage, found.notes) == ("full", (), ())


PLACES: dict[str, tuple[str, tuple[int, ...]]] = {
    "leaf header": ("t leaf", (0, 3, 4, 5, 6, 7)),
    "cell pointers of a leaf": ("t leaf", (8, 9, 14, 15)),
    "interior header": ("t internal", (0, 4, 8, 9)),
    "child pointer of an interior page": ("t internal", (12, 15)),
    "index leaf header": ("t_k leaf", (0, 4, 6)),
    "index interior header": ("t_k internal", (0, 4, 11)),
    "pointer of an overflow page": ("long overflow", (0, 2, 3)),
    "trunk of the freelist": ("trunk", (0, 3, 4, 7, 8, 11)),
    "header": ("header", (0, 15, 16, 17, 28, 31, 32, 35, 36, 39)),
    "root page in the schema": ("schema", (0,)),
}


@pytest.mark.parametrize(
    ("place", "at"),
    [(place, at) for place, at_all in PLACES.values() for at in at_all],
    ids=[f"{name} +{at}" for name, (_place, at_all) in PLACES.items() for at in at_all],
)
def test_flipped_bit_is_corruption(tmp_path: Path, sound: Sound, place: str, at: int) -> None:
    if place == "header":
        start = 0
    elif place == "trunk":
        start = (sound.trunk - 1) * PAGE
    elif place == "schema":
        start = sound.bytes.index(b"CREATE INDEX t_k") - 1
    else:
        table, kind = place.split()
        start = sound.page(table, kind)
    data = bytearray(sound.bytes)
    data[start + at] ^= 1
    found = verdict_on(tmp_path / "copy.db", bytes(data))
    assert found.level == "corrupt", found
    assert found.damage


FLIP = """
import sys
from pathlib import Path
from backupd.system.resources import NORMAL
from backupd.sqlite.worker import integrity_check
path = Path(sys.argv[1])
sound, number = path.read_bytes(), 0
for place in range(sound.index(b"CREATE"), 4096):
    for bit in range(place % 4, 8, 4):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << bit]) + sound[place + 1 :])
        with path.open("rb") as held:
            request = {
                "path": str(path), "held": held.fileno(), "writer": sys.argv[2], "priority": NORMAL._asdict(),
                "thorough": "all",
            }
            verdict = integrity_check.check_copy(request, None)["verdict"]
        number += 1
        assert verdict["level"] in {"full", "corrupt"}, (place, bit, verdict)
print(number)
"""


@pytest.mark.parametrize("writer", ["3.40.1", "3.99.0"])
def test_flipped_bit_in_schema_is_not_schema_of_another_engine(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "copy.db"
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE t(a TEXT NOT NULL, b INTEGER PRIMARY KEY, c TEXT DEFAULT 'x', CHECK (a > 0)) STRICT"
    )
    connection.execute("CREATE TABLE u(k TEXT PRIMARY KEY, p REFERENCES t(b) ON DELETE CASCADE) WITHOUT ROWID")
    connection.execute("CREATE TRIGGER g AFTER INSERT ON t BEGIN UPDATE t SET c = 1 WHERE b = new.b; END")
    connection.execute("CREATE VIEW v AS SELECT a, c FROM t JOIN u ON p = b")
    connection.commit()
    connection.close()
    flipped = subprocess.run([sys.executable, "-c", FLIP, path, writer], capture_output=True, text=True, check=False)
    assert flipped.returncode == 0, flipped.stderr
    assert int(flipped.stdout) > 600


def test_flipped_bit_in_indexed_column_is_corruption_that_names_index(tmp_path: Path, sound: Sound) -> None:
    data = bytearray(sound.bytes)
    data[sound.bytes.index(b"key 001234") + 9] ^= 2
    found = verdict_on(tmp_path / "copy.db", bytes(data))
    assert found.level == "corrupt"
    assert any("t_k" in message for message in found.damage)
