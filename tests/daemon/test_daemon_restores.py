"""A restore while the daemon uses the store: it waits, and chooses from the generations at that time."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.history import new_part_name, swap_journal_name
from backupd.sqlite.swap import FileMark, SwapJournal, journal_written
from support.bank import is_balanced, make_bank, spend, transfers
from support.command import Backupd, log_lines
from support.daemon import running_daemon, wait_until
from support.generations import backdated

ROWS = 100_000


def test_restore_waits_for_the_backup_of_the_daemon(backupd: Backupd, database: Path, backups: Path) -> None:
    database.unlink()
    make_bank(database, rows=ROWS)
    first = backupd("backup", "--json").json["generation"]
    older = backdated(backups, first, days=3)
    for path in backups.glob(f"{first}.*"):
        path.unlink()
    for path in (backups / ".backupd").glob("catalog.sqlite3*"):  # so that the daemon knows of that one alone
        path.unlink()
    shutil.rmtree(backups / ".backupd/pins")  # of the backup by hand
    spend(database)
    policy = {f"BACKUPD_RETENTION__{rule}": "0" for rule in ("WITHIN", "DAILY", "WEEKLY")}
    policy["BACKUPD_RETENTION__LAST"] = "1"
    with running_daemon(backupd, **policy) as daemon:
        wait_until(lambda: any((backups / ".backupd/staging").glob("run-*/copy/snapshot.sqlite3")), "a staged copy")
        (run,) = daemon.children()
        os.kill(run, signal.SIGSTOP)
        command = [sys.executable, "-m", "backupd", "restore"]
        restore = subprocess.Popen(command, env=backupd.environment(**policy), stdout=subprocess.PIPE, text=True)
        wait_until(lambda: "lock.waiting" in {line["event.action"] for line in log_lines(backups)}, "waiting")
        os.kill(run, signal.SIGCONT)
        said, _ = restore.communicate()
        assert restore.returncode == 0
        *_, latest = (line for line in log_lines(backups) if line["event.action"] == "generation.published")
        assert f"restored {latest['backupd.generation']} to {database}" in said
        assert (transfers(database), is_balanced(database, ROWS)) == (1, True)
        assert not [*backups.glob(f"{older}.*")]
        daemon.wait_for("scrub of tasks: done")
        assert daemon.stop() < 8
    assert backupd("restore", "--undo").code == 0
    assert transfers(database) == 1


def test_killed_restore_is_undone_when_the_daemon_starts(backupd: Backupd, database: Path, backups: Path) -> None:
    assert backupd("backup").code == 0  # so that none is due
    part = database.with_name(new_part_name(database.name))
    shutil.copy(database, part)
    with DatabasePlace.open(database) as place:
        new, old = FileMark.of(place, part.name), FileMark.of(place, database.name)
        assert new is not None
        kept = f"{database.name}.pre-restore-20261125T120000Z"
        journal_written(place, SwapJournal(database.name, part.name, new, kept, old, (), ())).__enter__()
    with running_daemon(backupd) as daemon:
        daemon.wait_for(f"a restore of {database} was killed: undone")
        wait_until(lambda: not database.with_name(swap_journal_name(database.name)).exists(), "no journal")
        assert daemon.stop() < 8
    assert not part.exists()
    assert len([line for line in log_lines(backups) if line["event.action"] == "run.finished"]) == 1
