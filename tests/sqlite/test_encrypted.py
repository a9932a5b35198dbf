"""Encrypted databases are copied unchanged, so that their key opens the copy; nothing more can be verified."""

import threading
from pathlib import Path

import pytest

from backupd.errors import NoSpace, SourceBusy, SourceEncrypted
from backupd.sqlite.source import Source
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.prune import release_hold
from backupd.tasks.requests import BackupRequest
from support.app import running_app
from support.backup_runs import BackUp
from support.cipher import PLAIN_HEADER, WHOLE, encrypted, read
from support.directories import small_disk
from support.snapshots import SHORT_WAITS, Take, copy_into

KINDS = pytest.mark.parametrize("cipher", [WHOLE, PLAIN_HEADER], ids=["whole file", "plain header"])
MODES = pytest.mark.parametrize("mode", ["wal", "delete"])
PATIENT = SHORT_WAITS._replace(busy_timeout_s=20)
TWO = "UPDATE account SET balance = balance + (CASE id WHEN 1 THEN -1 ELSE 1 END)"


@KINDS
@MODES
def test_copy_of_encrypted_database_has_committed_rows_and_source_is_unchanged(
    tmp_path: Path, back_up: BackUp, cipher: tuple[str, ...], mode: str
) -> None:
    path = tmp_path / "app.db"
    with encrypted(path, cipher, mode) as app:
        if mode == "wal":
            app.sql("BEGIN IMMEDIATE")
            app.sql("DELETE FROM long")
        before = path.read_bytes()
        result = back_up(path)
        assert path.read_bytes() == before
    assert (*result.outcome, result.report.details.verification) == ("degraded", 3, "opaque")
    assert "it is encrypted" in result.report.warnings[0]
    assert read(result.unpacked(tmp_path / "copy.db"), "SELECT count(*) FROM long", cipher) == [[2000]]


@MODES
def test_copy_of_encrypted_database_during_commits_is_consistent(tmp_path: Path, take: Take, mode: str) -> None:
    path = tmp_path / "app.db"
    stop = threading.Event()
    with encrypted(path, WHOLE, mode) as app:

        def work() -> None:
            while not stop.is_set():
                app.sql(TWO)
                if mode == "wal":
                    app.sql("PRAGMA wal_checkpoint(RESTART)")

        worker = threading.Thread(target=work)
        worker.start()
        try:
            copies = [take(path, PATIENT) for _ in range(4)]
        finally:
            stop.set()
            worker.join()
    for copy in copies:
        assert read(copy.file.path, "SELECT sum(balance), min(balance) < 50 FROM account") == [[100, 1]]


def test_database_encrypted_from_start_is_warned_of_once_and_then_noted(tmp_path: Path, back_up: BackUp) -> None:
    path = tmp_path / "app.db"
    with encrypted(path) as app:
        first = back_up(path)
        assert back_up(path).outcome == ("unchanged", 0)
        app.sql(TWO)
        second = back_up(path)
    assert (first.outcome, second.outcome) == (("degraded", 3), ("published", 0))
    assert any("it is encrypted" in note for note in second.report.notes)
    assert second.context.holds.get("tasks") is None


def test_database_encrypted_after_readable_backups_prunes_nothing_until_accepted(
    order: BackupRequest, context: TaskContext, tmp_path: Path
) -> None:
    good = backup(order, context)
    with encrypted(tmp_path / "app.db"):
        pass
    (tmp_path / "app.db").rename(order.path)
    for _ in range(2):
        report = backup(order, context)
        assert (report.outcome, report.exit_code, report.generation) == ("failed", 1, None)
        assert f"it could be read when {good.generation} was taken" in str(report.error)
        assert "backupd prune --unfreeze" in str(report.hint)
    hold = context.holds.get("tasks")
    assert hold is not None
    assert (hold.kind, hold.reference, hold.unreadable) == ("corrupt", good.generation, True)
    assert release_hold("tasks", context)
    accepted = backup(order, context)
    assert (accepted.outcome, accepted.details.verification) == ("degraded", "opaque")
    assert not context.holds.accepted("tasks")


def test_acceptance_of_encryption_holds_for_one_backup(order: BackupRequest, context: TaskContext) -> None:
    context.holds.accept("tasks")
    assert backup(order, context).outcome == "published"
    assert not context.holds.accepted("tasks")


@pytest.mark.parametrize("what", [b"no database" * 1000, b"\xff" * 4096])
def test_source_that_is_no_database_any_more_holds_pruning(
    order: BackupRequest, context: TaskContext, what: bytes
) -> None:
    good = backup(order, context)
    order.path.write_bytes(what)
    report = backup(order, context)
    assert "is not a SQLite database" in str(report.error)
    assert f"it was copied as {good.generation}" in str(report.error)
    assert f"or restore {good.generation}" in str(report.hint)
    assert context.holds.get("tasks") is not None


def test_hot_journal_of_encrypted_database_fails_backup_and_is_left_to_app(tmp_path: Path, back_up: BackUp) -> None:
    path = tmp_path / "app.db"
    with encrypted(path) as app:
        back_up(path)
        app.sql("PRAGMA cache_size=5")
        app.sql("BEGIN")
        app.sql("UPDATE long SET v = hex(randomblob(40))")
        assert back_up(path).outcome == ("failed", 75)  # it has spilled, and holds its lock
        app.kill()
        result = back_up(path)
        assert result.outcome == ("failed", 1)
        assert "which only its key can roll back" in result.error
        assert result.context.holds.get("tasks") is None
    with running_app(path, cipher=WHOLE) as app:
        app.sql("SELECT count(*) FROM long")
    again = back_up(path)
    assert again.outcome == ("published", 0)
    assert read(again.unpacked(tmp_path / "copy.db"), "SELECT count(*) FROM long") == [[2000]]


def test_encrypted_wal_that_hides_commits_is_refused(tmp_path: Path, take: Take) -> None:
    """SQLite3 Multiple Ciphers encrypts frames after their checksums were made."""
    path = tmp_path / "app.db"
    with encrypted(path, WHOLE, "wal"):
        wal = tmp_path / "app.db-wal"
        data = bytearray(wal.read_bytes())
        data[32 + 24 + 100] ^= 1
        wal.write_bytes(data)
        with pytest.raises(SourceEncrypted, match="hides which of its transactions are complete"):
            take(path)


def test_wal_frames_after_last_commit_are_not_copied(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "app.db"
    with encrypted(path, WHOLE, "wal") as app:
        app.sql("PRAGMA cache_size=5")
        app.sql("BEGIN")
        app.sql("UPDATE long SET v = hex(randomblob(40))")
        app.sql("UPDATE account SET balance = 0")
        app.kill()
    copy = take(path)
    assert copy.journal_mode == "wal"
    assert read(copy.file.path, "SELECT sum(balance) FROM account") == [[100]]


def test_lock_of_app_on_encrypted_database_is_waited_for_and_reported(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "app.db"
    with encrypted(path) as app:
        app.sql("BEGIN EXCLUSIVE")
        with pytest.raises(SourceBusy):
            take(path)


def test_vacuum_of_encrypted_database_is_refused_with_hint(tmp_path: Path, back_up: BackUp) -> None:
    path = tmp_path / "app.db"
    with encrypted(path):
        pass
    result = back_up(path, SHORT_WAITS._replace(method="vacuum"))
    assert ("is encrypted: VACUUM cannot rewrite it" in result.error, result.hint) == (True, 'use method = "backup"')
    assert result.generations == {}


@pytest.mark.root
@MODES
def test_copy_of_encrypted_database_without_space_is_no_space_error(tmp_path: Path, mode: str) -> None:
    """In WAL mode it is the WAL that does not fit any more."""
    path = tmp_path / "app.db"
    with encrypted(path, WHOLE, mode), small_disk(tmp_path / "disk", "100k") as disk:
        (disk / "staging").mkdir()
        source = Source.inspect(path)
        with pytest.raises(NoSpace), copy_into(disk / "staging", source):
            pass
