"""The daemon on the volume of an app: it waits for its databases, begins by itself, and notices new and lost ones."""

import json
from pathlib import Path

import pytest

from support.bank import make_bank
from support.command import Backupd
from support.daemon import running_daemon, wait_until

# It looks for databases twice a second, and each second for what is due, instead of each minute; until it restarts.
OFTEN = """
import apscheduler.triggers.interval as i, backupd.daemon.daemon as d, backupd.daemon.scheduler as s
import backupd.__main__ as m

d._CHECK_EVERY_S = 0.5
s.CronTrigger = lambda **_: i.IntervalTrigger(seconds=1)
m.main()
"""


@pytest.mark.no_cover
def test_daemon_waits_for_database_of_empty_volume_and_begins_by_itself(backupd: Backupd, database: Path) -> None:
    volume = database.parent
    for path in volume.glob("tasks.db*"):
        path.unlink()
    there = {"BACKUPD_DATABASE": str(volume)}
    with running_daemon(backupd, program=("-c", OFTEN), **there) as daemon:
        daemon.wait_for(f"{volume} is a directory without a SQLite database")
        missing = json.loads(daemon.ask("/api/status")[1])
        assert missing["state"] != "healthy"
        assert "without a SQLite database" in daemon.ask("/")[1]
        assert backupd("doctor", **there).code == 1
        make_bank(database)
        daemon.wait_for(f"the database {database} was found: restarting")
        daemon.wait_until_alive()
        wait_until(lambda: daemon.ask("/health")[0] == 200, "health")
        assert daemon.said().count("backs up tasks ") == 1


@pytest.mark.no_cover
def test_daemon_reports_a_vanished_database_and_begins_with_a_new_one(
    backupd: Backupd, database: Path, backups: Path
) -> None:
    volume, cache = database.parent, database.parent / "storage" / "production_cache.sqlite3"
    there = {"BACKUPD_DATABASE": str(volume)}
    assert backupd("backup", **there).code == 0
    before = set(backups.glob("tasks-*.sqlite3.gz"))
    with running_daemon(backupd, program=("-c", OFTEN), **there) as daemon:
        wait_until(lambda: daemon.ask("/health")[0] == 200, "health")
        for path in volume.glob("tasks.db*"):
            path.unlink()
        daemon.wait_for(f"no database at {database}; it was copied as tasks-")
        wait_until(lambda: daemon.ask("/health")[0] == 503, "the missing database")
        (status,) = json.loads(daemon.ask("/api/status")[1])["sources"]
        assert (status["source"], status["frozen"]) == ("tasks", True)
        assert backupd("restore", "latest", **there).code == 0
        assert backupd("backup", **there).code == 0
        cache.parent.mkdir()
        make_bank(cache)
        daemon.wait_for(f"the database {cache} was found: restarting")
        daemon.wait_until_alive()
        wait_until(lambda: daemon.ask("/health")[0] == 200, "health with both")
        sources = json.loads(daemon.ask("/api/status")[1])["sources"]
        assert {one["source"]: one["frozen"] for one in sources} == {"tasks": False, "storage-production_cache": False}
    assert len(list(backups.glob("storage-production_cache-*.sqlite3.gz"))) == 1
    assert before <= set(backups.glob("tasks-*.sqlite3.gz"))
