"""`backupd clean` removes old databases kept by restores, and old damaged copies, and nothing else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyboard import Keyboard

from backupd.model import Hold
from backupd.sqlite.history import KEPT_FOR
from backupd.system.file_lock import file_lock
from backupd.tasks.clean import Leftover, clean, decide_damaged, decide_replaced
from backupd.tasks.context import TaskContext
from support.command import log_lines
from support.directories import beside, sha256
from support.held import held

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def leftover(age_days: float, source: str = "tasks") -> Leftover:
    return Leftover("replaced database", source, Path(f"/{source}-{age_days}"), NOW - age_days * DAY, 10)


def later(context: TaskContext, days: int) -> TaskContext:
    """Return the same site, as if some days had passed."""
    return replace(context, clock=lambda: datetime.now(UTC) + days * DAY)


@pytest.fixture
def kept(typed: Keyboard, generation: str) -> list[Path]:
    """Three databases that restores have kept, oldest first."""
    return [Path(typed("restore", generation, "--json").json["kept"]) for _ in range(3)]


# --- The decision ---


@given(st.lists(st.floats(0, 400), unique=True), st.integers(0, 9), st.floats(0, 100))
def test_removed_databases_are_older_than_kept_ones_and_next_undo_is_kept(
    ages: list[float], undone: int, older_than_days: float
) -> None:
    found = tuple(leftover(age) for age in ages)
    next_undone = {one.path for one in found[undone : undone + 1]}
    decisions = decide_replaced(found, next_undone, older_than_days * DAY, NOW)
    assert [decision.leftover for decision in decisions] == list(found)
    gone = [decision.removed for decision in decisions]
    assert gone == sorted(gone, reverse=True), "an undo goes back without a gap"
    assert all(NOW - d.leftover.since >= older_than_days * DAY for d in decisions if d.removed)
    assert all(NOW - d.leftover.since >= KEPT_FOR for d in decisions if d.removed and d.leftover.path in next_undone)


def test_young_and_held_damaged_copies_are_kept() -> None:
    copies = (leftover(40), leftover(40, "notes"), leftover(5, "notes"))
    decisions = decide_damaged(copies, {"tasks"}, 30 * DAY, NOW)
    assert [(decision.removed, decision.reason) for decision in decisions] == [
        (False, "pruning of tasks is on hold"),
        (True, "older than 30 d"),
        (False, "younger than 30 d"),
    ]


# --- The command ---


def test_database_of_next_undo_is_kept_after_an_undo_though_oldest(
    typed: Keyboard, database: Path, kept: list[Path]
) -> None:
    before = sha256(kept[0])
    for _ in range(2):
        assert typed("restore", "--undo").code == 0
    decisions = typed("clean", "--older-than", "0", "--json").json
    assert decisions[0]["path"] == str(kept[0])
    assert {decision["action"] for decision in decisions} == {"keep"}
    assert typed("restore", "--undo").code == 0
    assert sha256(database) == before


def test_clean_removes_all_but_newest_with_side_files_and_undo_still_works(
    typed: Keyboard, database: Path, backups: Path, kept: list[Path]
) -> None:
    for suffix in ("-wal", "-shm", "-journal"):
        Path(f"{kept[0]}{suffix}").write_bytes(b"x" * 1000)
    assert "nothing" not in typed("clean").out
    assert set(kept) <= set(database.parent.iterdir()), "younger than 30 days"
    shown = typed("clean", "--older-than", "0", "--dry-run")
    assert shown.code == 0
    assert "would be freed" in shown.out
    assert set(kept) <= set(database.parent.iterdir())
    done = typed("clean", "--older-than", "0", "--json")
    assert done.code == 0, done.err
    assert [(fact["path"], fact["action"]) for fact in done.json] == [
        (str(kept[0]), "remove"),
        (str(kept[1]), "remove"),
        (str(kept[2]), "keep"),
    ]
    assert done.json[0]["size_bytes"] > 3000
    assert beside(database) == {kept[2].name, f"{kept[2].name}.json"}
    removed = [line for line in log_lines(backups) if line["event.action"] == "leftover.removed"]
    assert [line["backupd.path"] for line in removed] == [str(kept[0]), str(kept[1])]
    assert typed("restore", "--undo").code == 0


def test_files_not_named_by_restore_are_kept(context: TaskContext, database: Path, kept: list[Path]) -> None:
    strangers = [
        database.with_name(f"{database.name}{suffix}")
        for suffix in (".pre-restore-", ".pre-restore-notes", ".pre-restore-20200101T000000Z.bak", ".bak")
    ]
    strangers.append(database.with_name("other.db.pre-restore-20200101T000000Z"))
    for stranger in strangers:
        stranger.write_bytes(b"mine")
    link = database.with_name(f"{database.name}.pre-restore-20200101T000000Z")
    link.symlink_to(strangers[0])
    directory = database.with_name(f"{database.name}.pre-restore-20200102T000000Z")
    directory.mkdir()
    clean({"tasks": database}, timedelta(), later(context, 60))
    assert {path.name for path in (*strangers, link, directory)} <= {path.name for path in database.parent.iterdir()}
    assert not any(path.exists() for path in kept)


def test_leftovers_of_killed_removal_are_removed_by_next_clean(
    context: TaskContext, database: Path, kept: list[Path]
) -> None:
    left = Path(f"{kept[0]}-wal")
    left.write_bytes(b"x")
    kept[0].unlink()
    clean({"tasks": database}, 30 * DAY, later(context, 31))
    assert not left.exists()


def test_damaged_copies_are_removed_once_old_and_without_hold(
    typed: Keyboard, context: TaskContext, backups: Path
) -> None:
    copies = []
    for name in ("tasks", "gone"):
        snapshot = backups / f"{name}.damaged"
        snapshot.write_bytes(b"x" * 4096)
        copies.append(
            context.quarantine.add(name, f"{name}-20261101-040000", held(snapshot), ("a row is missing",)).parent
        )
    context.holds.set(Hold("tasks", "corrupt", datetime.now(UTC), "damaged", None))
    assert typed("clean", "--older-than", "0").code == 0
    assert copies[0].exists(), "it is evidence"
    context.holds.release("tasks")
    assert typed("clean", "--older-than", "0").code == 0
    assert not copies[0].exists()
    assert not copies[1].exists(), "also of a source that is configured no more"


def test_clean_during_another_run_removes_nothing(typed: Keyboard, context: TaskContext, kept: list[Path]) -> None:
    with file_lock(context.store.hidden / "lock", "backup", timeout_s=1):
        answer = typed("clean", "--older-than", "0", BACKUPD_LOCK__TIMEOUT_S="0")
    assert answer.code == 75
    assert all(path.exists() for path in kept)


def test_doctor_notes_kept_databases_with_command_that_removes_them(typed: Keyboard, kept: list[Path]) -> None:
    found = [finding for finding in typed("doctor", "--json").json if finding["check"] == "restore"]
    assert [finding["ok"] for finding in found] == [True] * len(kept)
    assert found[0]["detail"].startswith(f"{kept[0].name} is what a restore replaced ")
    assert found[0]["hint"] == "backupd clean removes it after 30 days"


def test_invalid_duration_is_usage_error(typed: Keyboard) -> None:
    answer = typed("clean", "--older-than", "soon")
    assert answer.code == 2
    assert "write it like" in answer.err
