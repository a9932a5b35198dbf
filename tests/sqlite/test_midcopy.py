"""Changes of the file during a copy: only a consistent state is published."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backupd.errors import SnapshotFailed
from support.app import running_app
from support.backup_runs import BackUp
from support.bank import is_balanced, make_bank
from support.processes import CopyObserver, nothing, wait_until
from support.snapshots import SHORT_WAITS, Take

pytestmark = pytest.mark.no_cover

ROWS, PAGES_IN = 60_000, 1500  # 11 MiB: three steps of a WAL database; asleep in the second of them
MANY_ROWS, CHUNK_IN = 230_000, 5200  # 42 MiB: three chunks of a rollback database; asleep in the second of them


@pytest.fixture
def path(tmp_path: Path, asleep: Callable[[int], None]) -> Path:
    """A WAL database whose copies fall asleep in the middle."""
    directory = tmp_path / "data"
    directory.mkdir()
    make_bank(directory / "tasks.db", rows=ROWS)
    asleep(PAGES_IN)
    return directory / "tasks.db"


@pytest.fixture
def rollback(tmp_path: Path, asleep: Callable[[int], None]) -> Path:
    """A rollback database whose copies fall asleep in the middle."""
    make_bank(tmp_path / "tasks.db", "delete", rows=MANY_ROWS)
    asleep(CHUNK_IN)
    return tmp_path / "tasks.db"


def replacing(path: Path, rows: int, journal_mode: str = "wal") -> Callable[[], object]:
    """Return what puts another bank in the place of that at `path`."""
    other = path.with_name(f"other-{rows}.db")
    make_bank(other, journal_mode, rows=rows)
    return lambda: other.rename(path)


def overwriting(path: Path) -> Callable[[], object]:
    """Return what overwrites pages that are not copied yet, in place."""

    def overwrite() -> None:
        with path.open("r+b") as stream:
            stream.seek(4096 * (PAGES_IN + 300))
            stream.write(b"\x55" * 4096 * 500)

    return overwrite


def test_database_replaced_during_copy_is_copied_again_and_new_one_is_published(
    tmp_path: Path, path: Path, back_up: BackUp
) -> None:
    other = CopyObserver(replacing(path, 500))
    result = back_up(path, progress=other)
    assert (result.outcome, other.done) == (("published", 0), True)
    assert result.events.count("snapshot.retried") == 1
    assert is_balanced(result.unpacked(tmp_path / "restored.db"), rows=500)


def test_database_replaced_during_both_copies_is_temporary_failure(path: Path, back_up: BackUp) -> None:
    other = CopyObserver(replacing(path, ROWS + 1), replacing(path, ROWS + 2))
    result = back_up(path, progress=other)
    assert (result.outcome, other.done) == (("failed", 75), True)
    assert "was replaced while it was copied" in result.error
    assert result.events.count("snapshot.retried") == 1
    assert (result.generations, result.staged) == ({}, [])


def test_rollback_database_replaced_during_copy_is_copied_again(
    tmp_path: Path, rollback: Path, back_up: BackUp
) -> None:
    other = CopyObserver(replacing(rollback, 500, "delete"))
    result = back_up(rollback, progress=other)
    assert (result.outcome, other.done) == (("published", 0), True)
    assert is_balanced(result.unpacked(tmp_path / "restored.db"), rows=500)


def test_database_deleted_during_copy_fails_as_missing_and_is_not_created(path: Path, back_up: BackUp) -> None:
    other = CopyObserver(path.unlink)
    result = back_up(path, progress=other)
    assert (result.outcome, other.done) == (("failed", 1), True)
    assert f"no database at {path}" in result.error
    assert not path.exists()
    assert (result.generations, result.staged) == ({}, [])


def test_database_overwritten_during_copy_is_copied_again_and_quarantined_if_still_corrupt(
    path: Path, back_up: BackUp
) -> None:
    other = CopyObserver(overwriting(path))
    result = back_up(path, progress=other)
    assert (result.outcome, other.done) == (("failed", 1), True)
    assert "is corrupt" in result.error
    assert result.events.count("snapshot.retried") == 1
    assert (result.generations, result.staged, len(result.quarantined)) == ({}, [], 1)
    assert result.context.holds.get("tasks") is not None


def test_database_repaired_before_second_copy_is_published(tmp_path: Path, path: Path, back_up: BackUp) -> None:
    whole = path.read_bytes()
    other = CopyObserver(overwriting(path), before=(nothing, lambda: path.write_bytes(whole)))
    result = back_up(path, progress=other)
    assert (result.outcome, other.done) == (("published", 0), True)
    assert result.events.count("snapshot.retried") == 1
    assert is_balanced(result.unpacked(tmp_path / "restored.db"), rows=ROWS)
    assert result.context.holds.get("tasks") is None


def test_database_truncated_during_copy_is_copied_again_and_fails_as_damaged(path: Path, back_up: BackUp) -> None:
    other = CopyObserver(lambda: os.truncate(path, 8192))
    result = back_up(path, progress=other)
    assert (result.outcome, other.done) == (("failed", 1), True)
    assert f"{path} is damaged" in result.error
    assert result.events.count("snapshot.retried") == 1
    assert (result.generations, result.staged) == ({}, [])
    assert result.context.holds.get("tasks") is not None


def test_rollback_database_truncated_during_copy_fails_as_damaged(rollback: Path, back_up: BackUp) -> None:
    other = CopyObserver(lambda: os.truncate(rollback, 8192))
    result = back_up(rollback, progress=other)
    assert (result.outcome, other.done) == (("failed", 1), True)
    assert f"{rollback} is damaged: " in result.error
    assert "not an error" not in result.error
    assert result.events.count("snapshot.retried") == 1
    assert (result.generations, result.staged) == ({}, [])


def test_rollback_database_truncated_and_repaired_is_copied_again(
    tmp_path: Path, rollback: Path, back_up: BackUp
) -> None:
    whole = rollback.read_bytes()
    other = CopyObserver(lambda: os.truncate(rollback, 8192), before=(nothing, lambda: rollback.write_bytes(whole)))
    result = back_up(rollback, progress=other)
    assert (result.outcome, other.done) == (("published", 0), True)
    assert result.events.count("snapshot.retried") == 1
    assert is_balanced(result.unpacked(tmp_path / "restored.db"), rows=MANY_ROWS)
    assert result.context.holds.get("tasks") is None


def test_database_overwritten_by_other_data_fails_as_no_database(path: Path, back_up: BackUp) -> None:
    other = CopyObserver(lambda: path.write_bytes(b"\x55" * 9_000_000))
    result = back_up(path, progress=other)
    assert (result.outcome, other.done) == (("failed", 1), True)
    assert f"{path} is not a SQLite database" in result.error
    assert (result.generations, result.staged) == ({}, [])


def test_commit_during_copy_is_copied_whole_or_not_at_all(path: Path, take: Take) -> None:
    with running_app(path) as app:
        done: list[object] = []

        def commit() -> None:
            if not done:
                done.append(app.sql("UPDATE account SET balance = balance + 1"))

        copy = take(path, on_progress=lambda _done, _total: commit())
        assert done
        assert app.sql("SELECT min(balance) FROM account") == [[101]]
    assert is_balanced(copy.file.path, rows=ROWS)


def test_wal_growing_without_end_ends_copy_and_not_app(path: Path, take: Take) -> None:
    with running_app(path) as app:
        app.sql("INSERT INTO ledger(amount) VALUES (1)")
        wal = Path(f"{path}-wal")
        with pytest.raises(SnapshotFailed, match=r"-wal grew to 10\d\d MiB while the snapshot was pinned") as failed:
            take(path, on_progress=lambda _done, _total: os.truncate(wal, (1 << 30) + (64 << 20)))
        assert "when the app writes less" in failed.value.hint
        app.sql("INSERT INTO ledger(amount) VALUES (2)")


def test_large_wal_before_copy_is_no_growth(path: Path, take: Take) -> None:
    with running_app(path) as app:
        app.sql("INSERT INTO ledger(amount) VALUES (7)")
        os.truncate(f"{path}-wal", (1 << 30) + (64 << 20))
        copy = take(path)
        assert app.sql("SELECT sum(amount) FROM ledger") == [[7]]
    assert copy.file.path.read_bytes().startswith(b"SQLite format 3")


def test_copy_beyond_time_limit_fails_with_hint(path: Path, take: Take) -> None:
    with pytest.raises(SnapshotFailed, match="was not copied within 0 s") as failed:
        take(path, SHORT_WAITS._replace(timeout_s=0.3))
    assert "timeout_s" in failed.value.hint


class Slow:
    """Records when the first copy began, and extends it to at least `least_s`."""

    def __init__(self, least_s: float) -> None:
        self._least_s = least_s
        self._began = 0.0

    def begin(self) -> None:
        """Note that the copy begins."""
        self._began = time.monotonic()

    def end(self) -> None:
        """Return when the copy took long enough."""
        wait_until(lambda: time.monotonic() > self._began + self._least_s)


SIX_SECONDS = SHORT_WAITS._replace(timeout_s=6, busy_timeout_s=60)


def test_second_copy_without_enough_time_is_not_started(path: Path, back_up: BackUp) -> None:
    slow, replaced = Slow(3.1), replacing(path, 500)
    other = CopyObserver(lambda: (replaced(), slow.end()), before=(slow.begin,))
    result = back_up(path, SIX_SECONDS, other)
    assert (result.outcome, other.done) == (("failed", 75), True)
    assert "was replaced while it was copied" in result.error
    assert "snapshot.retried" not in result.events
    assert back_up(path).outcome == ("published", 0)


def test_corrupt_copy_without_time_for_second_copy_fails_as_corrupt(path: Path, back_up: BackUp) -> None:
    slow, overwrite = Slow(3.1), overwriting(path)
    other = CopyObserver(lambda: (overwrite(), slow.end()), before=(slow.begin,))
    result = back_up(path, SIX_SECONDS, other)
    assert (result.outcome, other.done) == (("failed", 1), True)
    assert "is corrupt" in result.error
    assert "snapshot.retried" not in result.events
    assert len(result.quarantined) == 1
    assert result.context.holds.get("tasks") is not None


def test_second_copy_has_rest_of_time_limit(path: Path, back_up: BackUp) -> None:
    slow, replaced = Slow(2), replacing(path, 500, "delete")
    with running_app(path.with_name("other-500.db")) as app:
        app.sql("BEGIN EXCLUSIVE")
        other = CopyObserver(lambda: (replaced(), slow.end()), before=(slow.begin,))
        result = back_up(path, SIX_SECONDS._replace(timeout_s=15), other)
        app.sql("COMMIT")
    assert (result.outcome, other.done) == (("failed", 75), True)
    assert "stayed locked for" in result.error
    assert result.events.count("snapshot.retried") == 1
    assert 15 < result.report.duration_s < 20
