"""An app with cksumvfs refuses pages with wrong checksums: all copies keep them correct and verified."""

import subprocess
import sys
from pathlib import Path

import pytest

from backupd.sqlite.file_format import set_journal_mode
from backupd.sqlite.snapshot import compact_snapshot
from support.command import Backupd
from support.held import written
from support.snapshots import Take
from support.sqlite_checks import verdict

PAGE = 4096
MAKE = """
import apsw, sys
c = apsw.Connection(sys.argv[1])
c.reserve_bytes(reserve=8)
c.execute(f"PRAGMA journal_mode={sys.argv[2]}").fetchall()
c.execute("CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(99999)); CREATE TABLE gone(a); DROP TABLE gone")
c.close()
"""


def checksum(page: bytes) -> bytes:
    """As the documentation of cksumvfs tells it: of the words before the last 8 bytes, in little endian."""
    first = second = 0
    for at in range(0, len(page) - 8, 8):
        first = (first + int.from_bytes(page[at : at + 4], "little") + second) % 2**32
        second = (second + int.from_bytes(page[at + 4 : at + 8], "little") + first) % 2**32
    return first.to_bytes(4, "little") + second.to_bytes(4, "little")


def pages(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[at : at + PAGE] for at in range(0, len(data), PAGE)]


def wrong(path: Path) -> list[int]:
    return [number for number, page in enumerate(pages(path), 1) if page[-8:] != checksum(page)]


def checksummed(path: Path, mode: str = "delete") -> Path:
    """Make a database as an app with cksumvfs would leave it."""
    subprocess.run([sys.executable, "-c", MAKE, path, mode], check=True)
    path.write_bytes(b"".join(page[:-8] + checksum(page) for page in pages(path)))
    return path


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_each_page_of_copy_has_checksum_that_app_expects(tmp_path: Path, take: Take, mode: str) -> None:
    copy = take(checksummed(tmp_path / "app.db", mode))
    assert wrong(copy.file.path) == []
    found = verdict(copy.file.path)
    assert (found.level, found.checks) == ("full", ("integrity_check", "page checksums"))
    compacted = compact_snapshot(copy)
    assert compacted.size_bytes < copy.size_bytes
    assert wrong(compacted.file.path) == []


def test_restored_database_keeps_checksums_when_journal_mode_is_set(tmp_path: Path) -> None:
    path = checksummed(tmp_path / "app.db")
    assert set_journal_mode(written(path), "wal")
    assert wrong(path) == []


def test_flipped_bit_in_payload_of_source_with_checksums_is_damage(tmp_path: Path, take: Take) -> None:
    path = checksummed(tmp_path / "app.db")
    data = bytearray(path.read_bytes())
    data[5 * PAGE + 2000] ^= 1
    path.write_bytes(data)
    found = verdict(take(path).file.path)
    assert (found.level, found.damage) == ("corrupt", ("page 6 does not match its checksum",))


def test_reserved_bytes_without_checksums_are_left_unchanged(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "app.db"
    subprocess.run([sys.executable, "-c", MAKE, path, "delete"], check=True)
    copy = take(path)
    assert [page[-8:] for page in pages(copy.file.path)] == [page[-8:] for page in pages(path)]
    assert verdict(copy.file.path).checks == ("integrity_check",)


def test_online_restore_into_database_with_checksums_is_refused(backupd: Backupd, database: Path) -> None:
    database.unlink()
    checksummed(database)
    before = database.read_bytes()
    assert backupd("backup").code == 0
    online = backupd("restore", "latest", "--online")
    assert online.code == 1
    assert "checksum in each page" in online.err
    assert database.read_bytes() == before
