"""An app that died in a transaction over two databases: the state of each is never misjudged."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backupd.errors import TargetRefused
from backupd.sqlite.worker.hot_journal import detach_super_journal, read_super_journal
from backupd.sqlite.worker_process import WorkerProcess, deadline_for
from support.attached_databases import balances, die_in_a_commit, make_accounts
from support.backup_runs import BackUp
from support.directories import contents, hidden, mounted, rows
from support.snapshots import SHORT_WAITS, Take

BALANCE = "SELECT min(balance), max(balance) FROM account"
pytestmark = pytest.mark.root


@dataclass(frozen=True)
class Pair:
    """Two databases of a dead app, each in a directory of its own, and the super-journal beside the main one."""

    main: Path
    attached: Path
    super_journal: Path

    def files(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Return the bytes of all files."""
        return contents(self.main.parent), contents(self.attached.parent)

    def is_as_before_when_the_app_starts(self) -> bool:
        """Let the app open both, the attached one first, and tell whether nothing of the transaction is there."""
        return balances(self.attached) == balances(self.main) == (100, 100)


@pytest.fixture(params=["main", "attached"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Pair:
    """The app died while it wrote to this one of the two; the main one is written first."""
    main, attached = tmp_path / "main" / "tasks.db", tmp_path / "attached" / "other.db"
    for path in (main, attached):
        path.parent.mkdir()
        make_accounts(path)
    super_journal = die_in_a_commit(main, attached, {"main": main, "attached": attached}[request.param])
    return Pair(main, attached, super_journal)


main_one = pytest.mark.parametrize("pair", ["main"], indirect=True)
attached_one = pytest.mark.parametrize("pair", ["attached"], indirect=True)


@pytest.fixture
def volume(pair: Pair, tmp_path: Path) -> Iterator[Path]:
    """The directory of the main database at the path where backupd has it; nothing is where the app has it."""
    with mounted(pair.main.parent, tmp_path / "volume") as directory, hidden(pair.main.parent):
        yield directory


@attached_one
def test_journal_names_super_journal_until_record_is_cut_off(pair: Pair) -> None:
    for database in (pair.main, pair.attached):
        journal = Path(f"{database}-journal")
        record = read_super_journal(str(journal))
        assert record is not None
        assert (record.name, record.begin) == (str(pair.super_journal), journal.stat().st_size - 20 - len(record.name))
        whole = journal.read_bytes()
        for other in (
            b"\0" + whole[1:],
            whole[:-1] + b"x",
            whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
            b"x",
            b"",
        ):
            journal.write_bytes(other)
            assert read_super_journal(str(journal)) is None
        journal.unlink()
        assert read_super_journal(str(journal)) is None


@attached_one
def test_databases_with_visible_super_journal_are_copied_as_before_transaction(pair: Pair, take: Take) -> None:
    before = pair.files()
    for database in (pair.main, pair.attached):
        copy = take(database)
        assert copy.hot_journal
        assert rows(copy.file.path, BALANCE) == [(100, 100)]
        assert [path.name for path in copy.file.path.parent.iterdir()] == [copy.file.path.name]
    assert pair.files() == before
    assert pair.is_as_before_when_the_app_starts()


@main_one
def test_database_at_another_path_beside_super_journal_is_copied_as_before_transaction(
    pair: Pair, volume: Path, tmp_path: Path, back_up: BackUp
) -> None:
    before = contents(volume)
    backup_result = back_up(volume / "tasks.db")
    assert backup_result.outcome == ("degraded", 3)
    assert "copied as of before it" in backup_result.report.warnings[0]
    assert rows(backup_result.unpacked(tmp_path / "restored.db"), BALANCE) == [(100, 100)]
    assert contents(volume) == before
    assert not pair.main.exists()


@attached_one
@pytest.mark.parametrize("hot_journal", ["copy", "fail"])
def test_backup_without_visible_super_journal_waits_and_fails_and_changes_nothing(
    pair: Pair, back_up: BackUp, hot_journal: str
) -> None:
    with hidden(pair.main.parent):
        before = contents(pair.attached.parent)
        backup_result = back_up(pair.attached, SHORT_WAITS._replace(hot_journal=hot_journal))
        assert backup_result.outcome == ("failed", 1)
        assert f"whose super-journal {pair.super_journal} does not exist here" in backup_result.error
        assert "start the app" in backup_result.hint
        assert "snapshot.waiting" in backup_result.events
        assert (backup_result.generations, backup_result.staged) == ({}, [])
        assert contents(pair.attached.parent) == before
    assert pair.is_as_before_when_the_app_starts()


@main_one
def test_other_file_with_name_of_super_journal_proves_nothing(pair: Pair, back_up: BackUp) -> None:
    pair.super_journal.write_bytes(b"/elsewhere/notes.db-journal\0")
    assert "does not exist here" in back_up(pair.main).error
    pair.super_journal.unlink()
    pair.super_journal.mkdir()
    assert "does not exist here" in back_up(pair.main).error


@attached_one
def test_app_restarted_during_wait_finishes_transaction_and_database_is_copied_as_usual(pair: Pair, take: Take) -> None:
    restart = threading.Thread(target=pair.is_as_before_when_the_app_starts)
    restart.start()
    copy = take(pair.attached, SHORT_WAITS._replace(hot_journal_wait_s=30))
    restart.join()
    assert not copy.hot_journal
    assert rows(copy.file.path, BALANCE) == [(100, 100)]


def overwrite(database: Path, snapshot: Path) -> None:
    """Write `snapshot` into the live database at `database`."""
    request = {"path": str(database), "snapshot": snapshot.name, "uid": 0, "gid": 0, "busy_timeout_s": 0.3}
    with snapshot.open("rb") as copy:
        request["held"] = copy.fileno()
        with WorkerProcess("restore_online", request, snapshot.parent, deadline_for(0), (copy.fileno(),)) as child:
            child.result()


@attached_one
def test_database_without_visible_super_journal_is_not_overwritten(pair: Pair, tmp_path: Path) -> None:
    make_accounts(tmp_path / "snapshot")
    with hidden(pair.main.parent):
        before = contents(pair.attached.parent)
        with pytest.raises(TargetRefused, match="does not exist here"):
            overwrite(pair.attached, tmp_path / "snapshot")
        assert contents(pair.attached.parent) == before
    overwrite(pair.attached, tmp_path / "snapshot")
    assert pair.is_as_before_when_the_app_starts()


@attached_one
def test_restore_killed_after_record_is_cut_off_leaves_rollback_to_app(pair: Pair) -> None:
    assert detach_super_journal(str(pair.attached), str(pair.attached)) is None
    assert read_super_journal(f"{pair.attached}-journal") is None
    assert pair.is_as_before_when_the_app_starts()
