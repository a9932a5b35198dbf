"""The daemon on the volume of an app that has not started yet: it waits, begins by itself, and keeps its database."""

import json
from pathlib import Path

import pytest

from support.bank import make_bank
from support.command import Backupd
from support.daemon import running_daemon, wait_until

OFTEN = "import backupd.daemon.daemon as d, backupd.__main__ as m; d._CHECK_EVERY_S = 0.5; m.main()"


@pytest.mark.no_cover
def test_daemon_waits_for_database_of_empty_volume_and_keeps_it(
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
        make_bank(volume / "cache.db")
        doctor = backupd("doctor", **there)
        assert f"1 database in {volume} without a backup: cache.db" in doctor.out
        assert backupd("backup", **there).code == 0
        status = json.loads(daemon.ask("/api/status")[1])
        assert [source["source"] for source in status["sources"]] == ["tasks"]
        assert status["state"] == "healthy"
    assert not list(backups.glob("cache-*"))
