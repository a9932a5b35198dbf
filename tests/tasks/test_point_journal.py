"""What a killed restore of a point becomes, and what its journal may not make backupd do."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from backupd.errors import TargetRefused
from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.swap import FileMark, SwapJournal
from backupd.system.directory import Directory
from backupd.tasks.context import TaskContext
from backupd.tasks.restore.point_journal import Found, PartPlace, PointJournal, decide, new_run, read_copy, write_copy
from backupd.tasks.restore.point_recovery import recover_point
from backupd.tasks.restore.recovery import recover_restore

STATES: tuple[Found | None, ...] = (None, "old", "partial", "new", "other")
KEPT = "pre-restore-20261125T120000Z"


def test_restore_is_finished_only_where_all_is_new_and_touched_only_where_all_copies_exist() -> None:
    for found in (*product(STATES, repeat=2), *product(STATES, repeat=3)):
        decision = decide(found)
        assert (decision == "forgotten") == (None in found), found
        assert (decision == "finished") == (set(found) == {"new"}), found


def directory(tmp_path: Path, name: str) -> Path:
    """Make the directory of an app's database, as it is after the swap of a restore."""
    made = tmp_path / name
    made.mkdir()
    (made / f"{name}.db").write_text("new")
    (made / f"{name}.db.{KEPT}").write_text("old")
    return made


def place_of(made: Path) -> PartPlace:
    return PartPlace("database", str(made / f"{made.name}.db"), made.stat().st_ino)


def swap_of(made: Path) -> SwapJournal:
    name = f"{made.name}.db"
    with DatabasePlace.open(made / name) as place:
        new, old = FileMark.of(place, name), FileMark.of(place, f"{name}.{KEPT}")
    assert new is not None
    return SwapJournal(name, f".{name}.00000000.part", new, f"{name}.{KEPT}", old, (), ())


def write(made: Path, journal: PointJournal) -> None:
    with Directory.open(made) as directory:
        write_copy(directory, place_of(made), replace(journal, swap=swap_of(made)))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return directory(tmp_path, "tasks"), directory(tmp_path, "notes")


@pytest.fixture
def journal(pair: tuple[Path, Path]) -> PointJournal:
    return PointJournal("point-20261125-1200", new_run(), tuple(map(place_of, pair)))


def contents(pair: tuple[Path, Path]) -> list[str]:
    return [(made / f"{made.name}.db").read_text() for made in pair]


def test_copy_is_read_back_as_written(pair: tuple[Path, Path], journal: PointJournal) -> None:
    write(pair[0], journal)
    with Directory.open(pair[0]) as directory:
        assert read_copy(directory, place_of(pair[0])) == replace(journal, swap=swap_of(pair[0]))
        assert read_copy(directory, PartPlace("files", str(pair[0]), 0)) is None


def test_forged_copy_changes_nothing_beside_other_database(
    pair: tuple[Path, Path], journal: PointJournal, context: TaskContext
) -> None:
    write(pair[0], journal)  # its author cannot write beside the other one
    (pair[1] / "notes.db").write_text("of the app")
    recover_restore(pair[0] / "tasks.db", context)
    assert contents(pair) == ["new", "of the app"]
    assert not (pair[0] / ".tasks.db.restore-point").exists()


def test_copies_of_two_restores_decide_nothing(
    pair: tuple[Path, Path], journal: PointJournal, context: TaskContext
) -> None:
    write(pair[0], journal)
    write(pair[1], replace(journal, run=new_run()))
    (pair[1] / "notes.db").unlink()
    recover_point("database", pair[0] / "tasks.db", context, held=[pair[0]])
    assert (pair[0] / "tasks.db").read_text() == "new"
    assert (pair[1] / ".notes.db.restore-point").exists()


def test_directory_that_is_not_mounted_is_waited_for(
    pair: tuple[Path, Path], journal: PointJournal, context: TaskContext
) -> None:
    for made in pair:
        write(made, journal)
    away = pair[1].rename(pair[1].with_name("away"))
    pair[1].mkdir()  # an empty mount point
    with pytest.raises(TargetRefused, match="is not the directory that it was") as refused:
        recover_restore(pair[0] / "tasks.db", context)
    assert "mount the volumes" in refused.value.hint
    pair[1].rmdir()
    away.rename(pair[1])
    recover_restore(pair[0] / "tasks.db", context)
    assert contents(pair) == ["new", "new"]
    assert not [path for made in pair for path in made.glob(".*")]


def test_unfinished_restore_is_undone_from_either_side(
    pair: tuple[Path, Path], journal: PointJournal, context: TaskContext
) -> None:
    for made in pair:
        write(made, journal)
    notes = pair[1] / "notes.db"
    notes.rename(pair[1] / ".notes.db.00000000.part")
    (pair[1] / f"notes.db.{KEPT}").rename(notes)
    recover_restore(notes, context)
    assert contents(pair) == ["old", "old"]
    assert [sorted(path.name for path in made.iterdir()) for made in pair] == [["tasks.db"], ["notes.db"]]


@pytest.mark.parametrize("damage", ["", "{}", "link", "swap", "point"])
def test_damaged_copy_is_refused_with_hint(
    pair: tuple[Path, Path], journal: PointJournal, context: TaskContext, damage: str
) -> None:
    write(pair[0], journal)
    copy = pair[0] / ".tasks.db.restore-point"
    if damage == "link":
        copy.unlink()
        copy.symlink_to("/etc/passwd")
    elif damage == "swap":
        copy.write_text(copy.read_text().replace(f"tasks.db.{KEPT}", "../notes/notes.db"))
    elif damage == "point":
        copy.write_text(copy.read_text().replace("point-20261125-1200", "../../etc"))
    else:
        copy.write_text(damage)
    with pytest.raises(TargetRefused, match="is damaged: cannot determine how far") as refused:
        recover_restore(pair[0] / "tasks.db", context)
    assert "and remove it" in refused.value.hint
    assert contents(pair) == ["new", "new"]
