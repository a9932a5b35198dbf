"""The daemon on the volume of an app that has not started yet: it waits, begins by itself, and finds new databases."""

import json
from pathlib import Path

import pytest

from support.bank import make_bank
from support.command import Backupd
from support.daemon import running_daemon, wait_until

OFTEN = "import backupd.daemon.daemon as d, backupd.__main__ as m; d._CHECK_EVERY_S = 0.5; m.main()"


@pytest.mark.no_cover
def test_daemon_waits_for_databases_of_empty_volume_finds_new_ones_and_reports_a_vanished_one(
    backupd: Backupd, database: Path, backups: Path
) -> None:
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
        cache = volume / "storage" / "production_cache.sqlite3"
        cache.parent.mkdir()
        make_bank(cache)
        daemon.wait_for(f"the database {cache} was found: restarting")
        daemon.wait_until_alive()
        wait_until(lambda: len(list(backups.glob("storage-production_cache-*.sqlite3.gz"))) == 1, "its first backup")
        wait_until(lambda: daemon.ask("/health")[0] == 200, "health with both")
        assert backupd("backup", **there).code == 0
        for path in volume.glob("tasks.db*"):
            path.unlink()
        daemon.wait_for(f"no database at {database}; it was copied as tasks-")
        wait_until(lambda: daemon.ask("/health")[0] == 503, "the missing database")
        status = json.loads(daemon.ask("/api/status")[1])
        frozen = {source["source"]: source["frozen"] for source in status["sources"]}
        assert frozen == {"storage-production_cache": False, "tasks": True}
        before = sorted(backups.glob("tasks-*.sqlite3.gz"))
        assert before
        assert backupd("restore", "latest", "--source", "tasks", **there).code == 0
        assert backupd("backup", **there).code == 0
        wait_until(lambda: daemon.ask("/health")[0] == 200, "health with the restored database")
        assert set(before) <= set(backups.glob("tasks-*.sqlite3.gz"))
