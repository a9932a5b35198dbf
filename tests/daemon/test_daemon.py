"""The daemon from outside: it starts by itself, reports its state, catches up, and stops when asked."""

import json
import os
import re
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

from support.bank import is_balanced, make_bank, running_bank
from support.command import Backupd, log_lines
from support.daemon import running_daemon, wait_until

HEAVY_ROWS = 400_000


@pytest.fixture(scope="module")
def heavy_bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that takes seconds to back up, made once; tests get copies of it."""
    path = tmp_path_factory.mktemp("heavy") / "heavy.db"
    make_bank(path, rows=HEAVY_ROWS)
    return path


@pytest.fixture
def heavy(backupd: Backupd, database: Path, heavy_bank: Path) -> Backupd:
    """The command on a database that takes seconds to back up."""
    shutil.copyfile(heavy_bank, database)
    return backupd


def archives(backups: Path) -> list[Path]:
    return sorted(backups.glob("*.sqlite3.gz"))


def debris(backups: Path) -> list[Path]:
    return list((backups / ".backupd" / "staging").iterdir())


def at_work(backups: Path) -> None:
    """Wait until a backup has something in staging."""
    wait_until(lambda: any((backups / ".backupd" / "staging").glob("run-*/copy/snapshot.sqlite3")), "a staged copy")


@pytest.mark.cover_processes
def test_daemon_with_only_a_database_takes_its_first_backup_at_once(
    backupd: Backupd, database: Path, backups: Path
) -> None:
    before = database.stat()
    with running_daemon(backupd) as daemon:
        daemon.wait_until_alive()
        wait_until(lambda: daemon.ask("/health")[0] == 200, "health")
        assert daemon.health()["reasons"] == []
        daemon.wait_for("scrub of tasks: done")
        shown = json.loads(daemon.ask("/api/status")[1])
        assert (shown["state"], shown["sources"][0]["generation_count"]) == ("healthy", 1)
        assert not shown["sources"][0]["generations"][0]["pinned"], "only what is taken by hand is pinned"
        assert "Everything is up to date" in daemon.ask("/")[1]
        assert daemon.stop() < 8
    assert daemon.process.returncode == 0
    assert len(archives(backups)) == 1
    assert (database.stat().st_uid, database.stat().st_mode) == (before.st_uid, before.st_mode)
    assert not debris(backups)


def test_daemon_before_the_first_backup_is_alive_but_not_healthy(heavy: Backupd, backups: Path) -> None:
    with running_daemon(heavy) as daemon:
        daemon.wait_until_alive()
        at_work(backups)
        for child in daemon.children():
            os.kill(child, signal.SIGSTOP)
        assert daemon.ask("/livez")[0] == 200
        assert daemon.ask("/health")[0] == 503
        assert daemon.health()["reasons"] == ["there is no verified backup of tasks yet"]
        assert heavy("status").code == 1


def test_status_and_health_agree(backupd: Backupd) -> None:
    with running_daemon(backupd) as daemon:
        wait_until(lambda: daemon.ask("/health")[0] == 200, "health")
        answer = backupd("status")
        assert answer.code == 0
        assert answer.out.splitlines()[0] == "healthy"
        asked = backupd("health", BACKUPD_HTTP__LISTEN=f"0.0.0.0:{daemon.port}")
        assert (asked.code, asked.out) == (0, "alive\n")
    asked = backupd("health", BACKUPD_HTTP__LISTEN=f"127.0.0.1:{daemon.port}")
    assert asked.code == 1
    assert f"does not answer on port {daemon.port}" in asked.err


def test_missing_database_makes_status_unhealthy_at_once(backupd: Backupd, database: Path) -> None:
    assert backupd("backup").code == 0
    away = database.rename(database.with_name("away.db"))
    assert backupd("backup").code == 1
    answer = backupd("status")
    assert (answer.code, answer.out.splitlines()[0]) == (1, "NOT HEALTHY")
    failed = rf"^last backup      tasks: failed [\d.]+ s ago: no database at {re.escape(str(database))}"
    assert re.search(failed, answer.out, re.MULTILINE)
    assert "no database at" in json.dumps(backupd("status", "--json").json["tasks"])
    away.rename(database)
    assert backupd("backup").code == 0
    assert "failed" not in backupd("status").out


@pytest.mark.no_cover
def test_daemon_ignores_an_interrupt_that_its_parent_ignores(backupd: Backupd) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with running_daemon(backupd, program=("-m", "backupd")) as daemon:
            daemon.wait_until_alive()
            ignored = re.search(
                r"^SigIgn:\t(\w+)", Path(f"/proc/{daemon.process.pid}/status").read_text(), re.MULTILINE
            )
            assert ignored is not None
            assert int(ignored[1], 16) & 1 << signal.SIGINT - 1
            daemon.stop()
        assert daemon.process.returncode == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_daemon_stopped_during_a_backup_ends_in_time_and_leaves_nothing(heavy: Backupd, backups: Path) -> None:
    with running_daemon(heavy) as daemon:
        at_work(backups)
        assert daemon.stop() < 8
    assert daemon.process.returncode == 0
    assert not archives(backups)
    assert not debris(backups)
    last = [line for line in log_lines(backups) if line["event.action"] == "run.finished"][-1]
    assert (last["backupd.outcome"], last["error.message"]) == ("failed", "terminated (SIGTERM)")
    with running_daemon(heavy) as daemon:  # told to stop is no failure: nothing has to be waited for
        wait_until(lambda: archives(backups), "the backup that was broken off")


def test_run_that_ignores_its_signal_is_killed_in_time(heavy: Backupd, backups: Path) -> None:
    with running_daemon(heavy) as daemon:
        at_work(backups)
        for child in daemon.children():
            os.kill(child, signal.SIGSTOP)
        assert daemon.stop() < 8
    with running_daemon(heavy) as daemon:
        daemon.wait_for("backup of tasks: published", 180)
        assert not debris(backups)


@pytest.mark.no_cover
def test_daemon_killed_with_all_its_processes_recovers_at_the_next_start(heavy: Backupd, backups: Path) -> None:
    with running_daemon(heavy) as daemon:
        at_work(backups)
        runs = daemon.children()
        for run in runs:
            os.kill(run, signal.SIGSTOP)
        daemon.stop(signal.SIGKILL)
        for run in runs:
            os.kill(run, signal.SIGKILL)
    with running_daemon(heavy) as daemon:
        daemon.wait_for("backup of tasks: published", 180)
        assert not debris(backups)
        assert "was cut short" in daemon.said()


@pytest.mark.no_cover
def test_run_whose_daemon_is_killed_ends_and_leaves_nothing(heavy: Backupd, backups: Path) -> None:
    with running_daemon(heavy) as daemon:
        at_work(backups)
        runs = daemon.children()
        daemon.stop(signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{run}").exists() for run in runs), "the end of its run")
    assert not archives(backups)
    assert not debris(backups)


def test_killed_run_is_logged_and_the_daemon_goes_on(heavy: Backupd, backups: Path) -> None:
    with running_daemon(heavy) as daemon:
        at_work(backups)
        for child in daemon.children():
            os.kill(child, signal.SIGKILL)
        daemon.wait_for("the backup of tasks was killed by SIGKILL | what to do:")
        daemon.wait_for("prune of tasks: done")
        assert daemon.ask("/livez")[0] == 200


def test_secret_that_only_root_may_read_is_read_once(backupd: Backupd, backups: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret-of-root-alone")
    with running_daemon(backupd, BACKUPD_HTTP__TOKEN_FILE=str(token)) as daemon:
        daemon.wait_until_alive()
        token.unlink()
        daemon.wait_for("scrub of tasks: done")
        assert daemon.ask("/metrics")[0] == 401
    assert "s3cret" not in (backups / "backup.log").read_text()


def test_run_that_takes_too_long_is_stopped_and_counts_as_failed(
    backupd: Backupd, database: Path, backups: Path
) -> None:
    app = sqlite3.connect(database, isolation_level=None)
    app.execute("PRAGMA locking_mode=EXCLUSIVE")
    app.execute("BEGIN IMMEDIATE")
    with running_daemon(backupd, BACKUPD_SCHEDULE__RUN_TIMEOUT_S="3") as daemon:
        daemon.wait_for("stopping the backup of tasks: it did not end within 3 s")
        daemon.wait_for("backup of tasks: failed: the run exceeded schedule.run_timeout_s")
        assert daemon.ask("/livez")[0] == 200
    app.close()
    assert not archives(backups)


@pytest.mark.no_cover
def test_backup_beside_a_writing_app_is_consistent(backupd: Backupd, tmp_path: Path) -> None:
    database = tmp_path / "data" / "bank.db"
    with running_bank(database, pause_s=0.002) as bank:
        bank.wait_for_commits(20)
        with running_daemon(backupd, BACKUPD_DATABASE=str(database)) as daemon:
            wait_until(lambda: daemon.ask("/health")[0] == 200, "health")
            bank.wait_for_commits(20)
    restored = tmp_path / "restored.db"
    assert backupd("restore", "latest", "--to", restored, BACKUPD_DATABASE=str(database)).code == 0
    assert is_balanced(restored)


def test_docker_logs_and_backup_log_have_same_messages(backupd: Backupd, backups: Path) -> None:
    with running_daemon(backupd) as daemon:
        daemon.wait_for("scrub of tasks: done")
        daemon.stop()
    shown = [line[29:].split(" | what to do: ")[0] for line in daemon.said().splitlines()]
    assert shown == [line["message"] for line in log_lines(backups)]
    assert "\x1b" not in daemon.said()


def test_problems_at_start_are_logged_and_do_not_end_the_daemon(backupd: Backupd, database: Path) -> None:
    database.unlink()
    with running_daemon(backupd) as daemon:
        daemon.wait_for("backup of tasks: failed: no database at")
        assert "source tasks: no database at" in daemon.said()
        assert daemon.ask("/livez")[0] == 200
        assert daemon.ask("/health")[0] == 503


def test_late_volume_does_not_end_the_daemon(backupd: Backupd, tmp_path: Path) -> None:
    with running_daemon(backupd, BACKUPD_BACKUPS_DIR=str(tmp_path / "not" / "mounted")) as daemon:
        daemon.wait_for("does not exist")
        status, body = daemon.ask("/livez")
        assert (status, json.loads(body)["reasons"]) == (503, ["the catalog cannot be used"])
        assert "the directory of the backups cannot be read" in daemon.health()["reasons"]
        assert daemon.ask("/metrics")[0] == 200
        assert daemon.process.poll() is None
        (tmp_path / "not").mkdir()
        wait_until(lambda: daemon.ask("/health")[0] == 200, "health", 200)


def test_broken_configuration_stops_start_with_hint(backupd: Backupd) -> None:
    answer = backupd("serve", BACKUPD_SCHEDULE__BACKUP="25:00")
    assert answer.code == 78
    assert "BACKUPD_SCHEDULE__BACKUP" in answer.err
    assert 'must be a time ("04:00")' in answer.err


def test_port_in_use_is_a_clear_error(backupd: Backupd) -> None:
    with running_daemon(backupd) as daemon:
        daemon.wait_until_alive()
        answer = backupd("serve", BACKUPD_HTTP__LISTEN=f"127.0.0.1:{daemon.port}")
        assert answer.code == 1
        assert str(daemon.port) in answer.err


def test_second_daemon_on_the_store_stands_by(backupd: Backupd) -> None:
    with running_daemon(backupd) as first:
        first.wait_for("scrub of tasks: done")
        with running_daemon(backupd) as second:
            second.wait_for("standing by")
            assert second.ask("/livez")[0] == 200
            assert second.ask("/health")[0] == 200
            first.stop()
    assert second.said().count("standing by") == 1


@pytest.mark.cover_processes
def test_damaged_catalog_is_rebuilt_automatically(backupd: Backupd, backups: Path) -> None:
    assert backupd("backup").code == 0
    (backups / ".backupd" / "catalog.sqlite3").write_bytes(b"rubbish" * 1000)
    with running_daemon(backupd) as daemon:
        daemon.wait_for("catalog rebuilt from 1 manifests")
        wait_until(lambda: daemon.ask("/livez")[0] == 200, "life")
    assert backupd("list").code == 0
