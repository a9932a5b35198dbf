"""Several backupd that have no store in common, and one database: none takes what another is making for its own."""

import os
import shutil
from pathlib import Path

from yards import Yard, events

from backupd.log import Event
from backupd.sqlite.alone import alone_at
from backupd.sqlite.install import kept_databases
from backupd.sqlite.intent import Intent, Mark, declared, intent_path, part_path
from support.bank import transfers
from support.command import Backupd
from support.faults import Crew, stopped, traced

BUSY = 75
NEW, OLD = 3, 4  # rows in the ledger of the newest generation, and of the database that it replaces


def stranger(yard: Yard) -> dict[str, str]:
    """Return the environment of another backupd, which has a store of its own."""
    other = yard.root / "other-backups"
    shutil.copytree(yard.backups, other)
    return {**yard.environ, "BACKUPD_BACKUPS_DIR": str(other)}


def parts(yard: Yard) -> list[Path]:
    return [path for path in yard.database.parent.glob(".tasks.db.*.part") if path.stat().st_size]


def test_the_second_is_refused_and_the_first_loses_nothing(yard: Yard, forks: Crew) -> None:
    theirs, ours = stranger(yard), Backupd(yard.environ, yard.root).environment()
    with stopped(ours, yard.root, lambda: bool(parts(yard)), "restore") as first:
        (part,) = parts(yard)
        for command in (["restore"], ["restore", "--online"], ["restore", "--undo"]):
            refused = forks.run(command, theirs)
            assert refused.code == BUSY, refused
            assert f"another backupd is restoring in {yard.database.parent}" in refused.err
            assert part.exists()
        assert forks.run(["backup"], theirs).code in {0, 3}
    assert first.returncode == 0
    assert [transfers(path) for path in (yard.database, *kept_databases(yard.database))] == [NEW, OLD]
    assert forks.run(["restore"], theirs).code == 0


def test_a_backup_does_not_undo_the_swap_of_another_backupd_until_that_is_dead(yard: Yard, forks: Crew) -> None:
    database = yard.database
    part, kept = part_path(database), f"{database.name}.pre-restore-20261125T120000Z"
    shutil.copy(database, part)
    known = Mark.of(part)
    assert known is not None
    swap = declared(database, Intent(database.name, part.name, known, kept, Mark.of(database), (), ()))
    with alone_at(database):
        swap.__enter__()  # and never left: it is killed
        os.link(database, database.with_name(kept))
        assert forks.run(["backup"], yard.environ).code == BUSY
        assert (intent_path(database).exists(), part.exists()) == (True, True)
    assert forks.run(["backup"], yard.environ).code == 0
    assert Event.RESTORE_HEALED in events(yard)
    assert (transfers(database), kept_databases(database), parts(yard)) == (OLD, (), [])


def test_where_a_directory_cannot_be_locked_a_restore_works_all_the_same(yard: Yard, tmp_path: Path) -> None:
    environ = Backupd(yard.environ, yard.root).environment()
    ended, calls = traced(
        environ, tmp_path, "flock", "flock:error=EBADF", arguments=("restore",), path=yard.database.parent
    )
    assert [call.text for call in calls if "(INJECTED)" in call.text]
    assert (ended.code, transfers(yard.database)) == (0, NEW)
