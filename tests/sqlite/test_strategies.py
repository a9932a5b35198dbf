"""How a live database is copied: the effect on its writers, and when the copy gives up."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backupd.errors import SnapshotFailed, SourceBusy
from backupd.sqlite.worker.protocol import SnapshotSettings
from support.app import running_app
from support.backup_runs import BackUp
from support.bank import make_bank, running_bank
from support.directories import rows
from support.processes import copying_process
from support.snapshots import SHORT_WAITS, Take

ROWS = 200_000  # about 36 MiB: three unpinned steps
NO_BUDGET = SnapshotSettings(writer_budget_s=1e-6)


def is_one_moment(copy: Path) -> bool:
    """Tell whether every account in a copy of the bank is what its ledger says: no transfer is there by half."""
    wrong = rows(
        copy,
        "SELECT count(*) FROM account "
        "LEFT JOIN (SELECT payer AS id, sum(amount) AS paid FROM ledger GROUP BY payer) USING (id) "
        "LEFT JOIN (SELECT payee AS id, sum(amount) AS got FROM ledger GROUP BY payee) USING (id) "
        "WHERE balance != 100 - coalesce(paid, 0) + coalesce(got, 0)",
    )
    total = rows(copy, "SELECT sum(balance), count(*) FROM account")
    sound = rows(copy, "PRAGMA integrity_check")
    return (wrong, total, sound) == ([(0,)], [(ROWS * 100, ROWS)], [("ok",)])


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a large bank in either journal mode."""
    directory = tmp_path_factory.mktemp("banks")
    for mode in ("wal", "delete"):
        make_bank(directory / mode, mode, rows=ROWS)
    return {mode: (directory / mode).read_bytes() for mode in ("wal", "delete")}


@pytest.fixture
def wal(tmp_path: Path, banks: dict[str, bytes]) -> Path:
    """A large bank in WAL mode."""
    (tmp_path / "tasks.db").write_bytes(banks["wal"])
    return tmp_path / "tasks.db"


@pytest.fixture
def rollback(tmp_path: Path, banks: dict[str, bytes]) -> Path:
    """A large bank with a rollback journal."""
    (tmp_path / "tasks.db").write_bytes(banks["delete"])
    return tmp_path / "tasks.db"


def test_busy_wal_database_is_copied_consistently_without_blocking_writers(wal: Path, take: Take) -> None:
    with running_bank(wal, rows=ROWS) as bank:
        bank.wait_for_commits(50)
        copy = take(wal, SnapshotSettings())
        bank.wait_for_commits(50)
    assert is_one_moment(copy.file.path)
    assert (copy.journal_mode, copy.writers_held_s) == ("wal", 0)


def test_busy_rollback_database_is_locked_for_copy_within_writer_budget(rollback: Path, take: Take) -> None:
    with running_bank(rollback, "delete", rows=ROWS) as bank:
        for _ in range(10):  # where the machine keeps the bank from committing meanwhile, nothing has to be pinned
            bank.wait_for_commits(20)
            copy = take(rollback, SnapshotSettings(writer_budget_s=30))
            if copy.writers_held_s:
                break
        bank.wait_for_commits(20)
    assert is_one_moment(copy.file.path)
    assert copy.journal_mode == "rollback"
    assert 0 < copy.writers_held_s < 30


def test_copy_beyond_writer_budget_waits_for_quiet_moment(rollback: Path, take: Take) -> None:
    events = []
    with running_bank(rollback, "delete", rows=ROWS) as bank:

        def leave_it_alone(event: str, message: str) -> None:
            events.append((event, message))
            bank.stop()

        for _ in range(10):  # a machine that keeps the bank from committing lets an unpinned copy through
            bank.wait_for_commits(20)
            copy = take(rollback, NO_BUDGET, on_event=leave_it_alone)
            if events:
                break
    assert [event for event, _message in events] == ["snapshot.waiting"]
    assert is_one_moment(copy.file.path)
    assert copy.writers_held_s == 0


def test_copy_beyond_writer_budget_without_quiet_moment_blocks_writers_and_reports_it(
    rollback: Path, tmp_path: Path, back_up: BackUp
) -> None:
    with running_bank(rollback, "delete", rows=ROWS) as bank:
        bank.wait_for_commits(20)
        backup_result = back_up(rollback, NO_BUDGET._replace(quiet_wait_s=0.2))
        bank.wait_for_commits(20)
    assert backup_result.outcome == ("published", 0)
    assert "snapshot.waiting" in backup_result.events
    assert "writers were held for" in backup_result.report.notes[0]
    assert is_one_moment(backup_result.unpacked(tmp_path / "restored.db"))


def test_wait_for_quiet_moment_ends_at_time_limit(rollback: Path, take: Take) -> None:
    with running_bank(rollback, "delete", rows=ROWS) as bank:
        bank.wait_for_commits(20)
        # who holds it when the time is up decides which of them it is
        with pytest.raises((SnapshotFailed, SourceBusy), match=r"was not copied within 2 s|stayed locked for [12] s"):
            take(rollback, NO_BUDGET._replace(timeout_s=1.5))
        bank.wait_for_commits(20)


def test_idle_database_is_copied_without_blocking_writers(rollback: Path, take: Take) -> None:
    copy = take(rollback, SnapshotSettings())
    assert copy.writers_held_s == 0
    assert copy.file.path.read_bytes()[100:] == rollback.read_bytes()[100:]


def test_lock_released_in_time_is_waited_for(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path, "delete")
    with running_app(path) as app, ThreadPoolExecutor(1) as pool:
        app.sql("BEGIN EXCLUSIVE")
        app.sql("UPDATE account SET balance = balance + 1")
        copying = pool.submit(take, path, SHORT_WAITS._replace(busy_timeout_s=20))
        copying_process(path)
        assert not copying.done()
        app.sql("COMMIT")
        copy = copying.result()
    assert rows(copy.file.path, "SELECT min(balance) FROM account") == [(101,)]


def test_lock_held_longer_than_time_limit_is_temporary_failure(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path, "delete")
    with running_app(path) as app:
        app.sql("BEGIN EXCLUSIVE")
        with pytest.raises(SourceBusy, match="stayed locked") as busy:
            take(path, SnapshotSettings(timeout_s=0.3))
        app.sql("COMMIT")
    assert busy.value.exit_code == 75
