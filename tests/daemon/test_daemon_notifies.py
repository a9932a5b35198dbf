"""The daemon notifies people and monitors soon, and waits for none of them."""

from pathlib import Path

import pytest

from backupd import __version__
from support.command import Backupd, log_lines
from support.daemon import running_daemon, wait_until
from support.recording_server import HANG, CannedResponse, ReceivedRequest, recording_server

pytestmark = pytest.mark.no_cover

MISSING = "the database of tasks is missing: no backup can be made"


def test_daemon_reports_a_failure_its_end_and_its_own_deploy_and_pings(
    backupd: Backupd, database: Path, backups: Path
) -> None:
    away = database.rename(database.with_name("away.db"))
    with recording_server() as people, recording_server() as monitor:
        environ = {
            "BACKUPD_NOTIFY__URLS": people.url("/hunter2-path", "json"),
            "BACKUPD_PINGS__BACKUP": monitor.url("/ping/hunter2-ping"),
            "BACKUPD_PINGS__DAILY": monitor.url("/api/push/hunter2-push"),
        }
        with running_daemon(backupd, **environ) as daemon:
            wait_until(lambda: f"backupd tasks: {MISSING}" in titles(people.requests), "the bad news")
            away.rename(database)
            assert backupd("backup", **environ).code == 0
            monitor.wait_for(4)
            daemon.wait_for("sent to 1 of 1 channels", 90)
            wait_until(
                lambda: "/api/push/hunter2-push" in [asked.path for asked in monitor.requests], "the daily ping", 90
            )
            wait_until(lambda: len(people.requests) >= 3, "the good news and that of the deploy", 90)
            assert daemon.stop() < 8
        assert set(titles(people.requests)) == {
            f"backupd tasks: {MISSING}",
            "backupd tasks: resolved: the database of tasks is no longer missing",
            f"backupd tasks: deploy OK: backupd {__version__}",
        }
        assert len(people.requests) == 3
        pings = [asked.path.removeprefix("/ping/hunter2-ping") for asked in monitor.requests]
        assert pings[:2] == ["/start", "/1"]
        assert {"/start", ""} <= set(pings[2:])
    assert "hunter2" not in daemon.said() + (backups / "backup.log").read_text()


def test_hanging_channel_delays_neither_backups_nor_the_end(backupd: Backupd, backups: Path) -> None:
    def answering(asked: ReceivedRequest) -> CannedResponse:
        return HANG if asked.method == "POST" else CannedResponse()

    with recording_server(answering) as there:
        url = there.url("/hunter2?rto=600&cto=600", "json")
        with running_daemon(backupd, BACKUPD_NOTIFY__URLS=url) as daemon:
            there.wait_for(1)
            daemon.wait_for("scrub of tasks: done")
            wait_until(lambda: len(daemon.children()) == 1, "the end of all runs")
            (sender,) = (Path(f"/proc/{child}") for child in daemon.children())
            command = (sender / "cmdline").read_bytes()
            assert b"backupd.notifications.apprise" in command
            assert b"hunter2" not in command
            assert daemon.stop() < 8
            wait_until(lambda: not sender.exists(), "the end of what was sending")
    assert [line for line in log_lines(backups) if line["event.action"] == "run.finished"]


def titles(asked: list[ReceivedRequest]) -> list[str]:
    return [one.json["title"] for one in asked]
