"""An app that plants files beside its database, or replaces it: nothing else is read, filled or blocked.

The attacker may write to the directory of the database. What must not get into a copy is `SECRET`.
"""

import os
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backupd.errors import BackupdError, SourceCorrupt, SourceReplaced, SourceUnusable
from backupd.report import BackupDetails, RunReport
from backupd.sqlite.file_format import checksum
from backupd.sqlite.snapshot import Snapshot
from backupd.sqlite.source import Source
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest
from support.app import running_app
from support.bank import make_bank
from support.cipher import encrypted
from support.processes import die_in_a_transaction
from support.snapshots import SHORT_WAITS, copy_into

SECRET = "a secret of another app"
HUGE_BYTES = 100 << 30
SOON_S = 20.0


def take(source: Source, staging: Path) -> Snapshot:
    staging.mkdir()
    with copy_into(staging, source) as snapshot:
        return snapshot


def back_up(path: Path, context: TaskContext) -> RunReport[BackupDetails]:
    return backup(BackupRequest("tasks", path, SHORT_WAITS, reserve_bytes=0), context)


def occupied_bytes(directory: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*"))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The database of another app, with a secret."""
    (tmp_path / "other").mkdir()
    path = tmp_path / "other" / "tasks.db"
    with running_app(path) as app:
        app.sql("CREATE TABLE secret(text)")
        app.sql(f"INSERT INTO secret VALUES ('{SECRET}')")
    return path


PLANTS: dict[str, Callable[[Path, Path], object]] = {
    "a link": lambda path, other: path.symlink_to(other),
    "a pipe": lambda path, _other: os.mkfifo(path),
    "a directory": lambda path, _other: path.mkdir(),
    "a socket": lambda path, _other: os.mknod(path, stat.S_IFSOCK | 0o600),
    "a device": lambda path, _other: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5)),
    "a link to a device": lambda path, _other: path.symlink_to("/dev/zero"),
    "another database": lambda path, other: path.hardlink_to(other),
}
SIDE_PLANTS = [name for name in PLANTS if name != "another database"]


@pytest.mark.root
@pytest.mark.parametrize("plant", PLANTS)
def test_file_replacing_source_after_inspection_is_not_read(
    database: Path, other: Path, tmp_path: Path, plant: str
) -> None:
    source = Source.inspect(database)
    database.unlink()
    PLANTS[plant](database, other)
    began = time.monotonic()
    with pytest.raises(SourceReplaced):
        take(source, tmp_path / "staging")
    assert time.monotonic() - began < SOON_S
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in (tmp_path / "staging").iterdir())


@pytest.mark.root
@pytest.mark.parametrize(("suffix", "mode"), [("-wal", "wal"), ("-shm", "wal"), ("-journal", "delete")])
@pytest.mark.parametrize("plant", SIDE_PLANTS)
def test_planted_file_beside_source_is_reported_and_not_opened(
    database: Path, other: Path, tmp_path: Path, plant: str, suffix: str, mode: str
) -> None:
    with running_app(database) as app:
        app.sql(f"PRAGMA journal_mode={mode}")
    planted = database.with_name(f"{database.name}{suffix}")
    PLANTS[plant](planted, other)
    began = time.monotonic()
    with pytest.raises(SourceUnusable, match=f"{suffix} is a .*, not a regular file: SQLite creates"):
        take(Source.inspect(database), tmp_path / "staging")
    assert time.monotonic() - began < SOON_S


SWAP = """
import ctypes, os, sys
source, other = (os.fsencode(path) for path in sys.argv[1:])
exchange = ctypes.CDLL(None).renameat2
print("ready", flush=True)
while os.getppid() != 1:
    assert exchange(-100, source, -100, other, 2) == 0
"""


def test_constantly_exchanged_database_is_backed_up_without_foreign_pages(
    database: Path, other: Path, tmp_path: Path
) -> None:
    decoy = database.with_name("decoy")
    decoy.symlink_to(other)
    source, refused = Source.inspect(database), 0
    with subprocess.Popen([sys.executable, "-c", SWAP, database, decoy], stdout=subprocess.PIPE) as attacker:
        assert attacker.stdout is not None
        attacker.stdout.readline()
        for number in range(8):
            staging = tmp_path / f"staging-{number}"
            try:
                take(source, staging)
            except BackupdError:
                refused += 1
        attacker.kill()
    assert refused
    for path in tmp_path.glob("staging-*/*"):
        assert SECRET.encode() not in path.read_bytes(), path


def hot_journal(database: Path) -> Path:
    with running_app(database) as app:
        app.sql("PRAGMA journal_mode=DELETE")
    die_in_a_transaction(database)
    return database.with_name(f"{database.name}-journal")


def test_hot_journal_of_100_gib_is_copied_without_holes(database: Path, context: TaskContext) -> None:
    os.truncate(hot_journal(database), HUGE_BYTES)
    began = time.monotonic()
    report = back_up(database, context)
    assert time.monotonic() - began < SOON_S
    assert (report.outcome, report.details.verification) == ("degraded", "full")
    assert occupied_bytes(context.store.directory) < 10 << 20


def test_hot_journal_with_impossible_page_count_is_refused(database: Path, tmp_path: Path) -> None:
    journal = hot_journal(database)
    with journal.open("r+b") as stream:
        stream.seek(16)
        stream.write(struct.pack(">I", 0x7FFFFFFF))
    with pytest.raises(SourceCorrupt, match="-journal claims that the database had 8796093018112 bytes"):
        take(Source.inspect(database), tmp_path / "staging")
    assert occupied_bytes(tmp_path / "staging") < 10 << 20


def test_wal_of_100_gib_is_read_up_to_written_frames(database: Path, context: TaskContext) -> None:
    with running_app(database) as app:
        app.sql("INSERT INTO ledger VALUES (1, 1, 2, 3)")
        os.truncate(f"{database}-wal", HUGE_BYTES)
        report = back_up(database, context)
    assert (report.outcome, report.details.verification) == ("published", "full")
    assert occupied_bytes(context.store.directory) < 10 << 20


def claim_pages(wal: Path, page_size: int, pages: int) -> None:
    """Let the first frame commit a database of so many pages; all checksums fit."""
    data = bytearray(wal.read_bytes())
    order = ">" if data[3] & 1 else "<"
    struct.pack_into(">I", data, 32 + 4, pages)
    sums = checksum(order, bytes(data[:24]))
    sums = checksum(order, bytes(data[32:40]), sums)
    sums = checksum(order, bytes(data[56 : 56 + page_size]), sums)
    struct.pack_into(">II", data, 48, *sums)
    wal.write_bytes(data[: 56 + page_size])


@pytest.mark.parametrize("pages", [0xFFFFFFFE, 0x7FFFFFFF])
def test_wal_with_impossible_page_count_uses_bounded_memory_and_disk(
    database: Path, tmp_path: Path, pages: int
) -> None:
    with running_app(database) as app:
        app.sql("INSERT INTO ledger VALUES (1, 1, 2, 3)")
        copy = tmp_path / "planted" / "tasks.db"
        copy.parent.mkdir()
        copy.write_bytes(database.read_bytes())
        wal = copy.with_name("tasks.db-wal")
        wal.write_bytes(Path(f"{database}-wal").read_bytes())
    claim_pages(wal, 4096, pages)
    with copy.open("r+b") as stream:
        stream.seek(28)
        stream.write(struct.pack(">I", pages))
    with pytest.raises(SourceCorrupt, match=rf"is truncated.* of its {pages} pages are not complete"):
        take(Source.inspect(copy), tmp_path / "staging")
    assert occupied_bytes(tmp_path / "staging") < 10 << 20


def test_wal_of_encrypted_database_with_impossible_page_count_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data" / "app.db"
    path.parent.mkdir()
    copy = tmp_path / "planted" / "app.db"
    copy.parent.mkdir()
    with encrypted(path, mode="wal") as app:
        app.sql("DELETE FROM long")
        copy.write_bytes(path.read_bytes())
        wal = copy.with_name("app.db-wal")
        wal.write_bytes(Path(f"{path}-wal").read_bytes())
    claim_pages(wal, 4096, 0xFFFFFFFE)
    with pytest.raises(SourceCorrupt, match="-wal claims more pages than the two files have"):
        take(Source.inspect(copy), tmp_path / "staging")
    assert occupied_bytes(tmp_path / "staging") < 10 << 20


def test_lease_on_source_delays_backup_but_does_not_end_it(database: Path, tmp_path: Path) -> None:
    make_bank(database.with_name("two.db"))
    holder = (
        "import fcntl, os, signal, sys, time\n"
        "signal.signal(signal.SIGIO, lambda *_: (time.sleep(0.5), os._exit(0)))\n"
        "fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", holder, database], stdout=subprocess.PIPE) as app:
        assert app.stdout is not None
        app.stdout.readline()
        assert take(Source.inspect(database), tmp_path / "staging").size_bytes == database.stat().st_size
