"""`backupd backup` as operators and scripts use it."""

import gzip
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from keyboard import Keyboard, Pair, into_closed_pipe, with_closed

from backupd.system.file_lock import file_lock
from support.command import Backupd, log_lines
from support.daemon import wait_until

FIELDS = {
    "outcome": str,
    "generation": str,
    "archive_path": str,
    "snapshot_bytes": int,
    "archive_bytes": int,
    "snapshot_sha256": str,
    "archive_sha256": str,
    "verification": str,
    "duration_s": float,
    "stages": dict,
    "warnings": list,
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_json_report_matches_files_on_disk(backupd: Backupd, backups: Path) -> None:
    answer = backupd("backup", "--json")
    assert (answer.code, answer.err) == (0, "")
    facts = answer.json
    assert {name: type(facts[name]) for name in FIELDS} == FIELDS
    assert (facts["outcome"], facts["verification"], facts["warnings"]) == ("published", "full", [])
    assert re.fullmatch(r"tasks-\d{8}-\d{4}", facts["generation"])
    archive = Path(facts["archive_path"])
    assert archive == backups / f"{facts['generation']}.sqlite3.gz"
    packed = archive.read_bytes()
    snapshot = gzip.decompress(packed)
    assert (facts["archive_bytes"], facts["archive_sha256"]) == (len(packed), sha256(packed))
    assert (facts["snapshot_bytes"], facts["snapshot_sha256"]) == (len(snapshot), sha256(snapshot))
    assert {"copy", "pack", "check", "publish"} <= set(facts["stages"])
    again = backupd("backup", "--json")
    assert (again.code, again.json["outcome"], again.json["generation"]) == (0, "unchanged", facts["generation"])


def test_piped_output_is_plain_lines(backupd: Backupd, backups: Path) -> None:
    answer = backupd("backup", "--source", "tasks")
    assert (answer.code, answer.err) == (0, "")
    (key,) = [path.name.removesuffix(".manifest.json") for path in backups.glob("*.manifest.json")]
    first, *more = answer.out.splitlines()
    assert first == f"tasks: published {key}, verified full"
    assert [line.split()[0] for line in more] == ["archive", "size", "time", "store"]
    assert answer.out.isascii()
    assert "\x1b" not in answer.out


def test_missing_database_fails_with_hint(backupd: Backupd, database: Path) -> None:
    database.unlink()
    answer = backupd("backup", "--json")
    assert answer.code == answer.json["exit_code"] == 1
    assert (answer.json["outcome"], answer.json["generation"]) == ("failed", None)
    assert answer.json["error"] == f"no database at {database}"
    assert "check the path" in answer.json["hint"]
    assert not database.exists()


def test_failure_is_written_to_standard_error(typed: Keyboard, database: Path) -> None:
    database.unlink()
    answer = typed("backup")
    assert (answer.code, answer.out) == (1, "")
    assert f"error: backup of tasks: no database at {database}\n" in answer.err
    assert "what to do: check the path" in answer.err


def test_store_in_use_exits_75(backupd: Backupd, backups: Path) -> None:
    (backups / ".backupd").mkdir(parents=True)
    with file_lock(backups / ".backupd" / "lock", "prune"):
        answer = backupd("backup", "--json", BACKUPD_LOCK__TIMEOUT_S="0")
    assert (answer.code, answer.json["outcome"], answer.json["exit_code"]) == (75, "failed", 75)
    assert re.search(rf"a prune started [\d.]+ s ago \(process {os.getpid()} on ", answer.json["error"])


def break_catalog(backups: Path) -> None:
    (backups / ".backupd").mkdir(parents=True)
    (backups / ".backupd" / "catalog.sqlite3").write_bytes(b"no database" * 1000)


def test_backup_with_warnings_is_published_but_degraded(backupd: Backupd, backups: Path) -> None:
    break_catalog(backups)
    answer = backupd("backup")
    assert answer.code == 3
    assert "warning: the catalog cannot be used" in answer.err
    assert "tasks: degraded tasks-" in answer.out
    assert len(list(backups.glob("*.sqlite3.gz"))) == 1


def test_invalid_configuration_fails_before_anything_is_created(backupd: Backupd, backups: Path) -> None:
    answer = backupd("backup", "--json", BACKUPD_RETENTION__DALY="7")
    assert answer.code == 78
    assert answer.json["exit_code"] == 78
    assert (answer.json["outcome"], "BACKUPD_RETENTION__DAILY" in answer.json["error"]) == ("failed", True)
    assert "error: " in answer.err
    assert not backups.exists()


def test_unconfigured_source_is_usage_error(typed: Keyboard, backups: Path) -> None:
    answer = typed("backup", "--source", "task", "--json")
    assert answer.code == 2
    assert "unknown source 'task'" in answer.json["error"]
    assert "tasks" in answer.json["hint"]
    assert not backups.exists()


def test_backups_directory_that_cannot_be_created_fails_with_hint(typed: Keyboard, tmp_path: Path) -> None:
    answer = typed("backup", "--json", BACKUPD_BACKUPS_DIR=str(tmp_path / "not mounted" / "backups"))
    assert (answer.code, answer.json["outcome"]) == (1, "failed")
    assert str(tmp_path / "not mounted") in answer.json["error"]
    assert "mount" in answer.json["hint"]


def test_several_sources_are_reported_as_list_with_worst_exit_code(backupd: Backupd, pair: Pair) -> None:
    clean = Backupd({}, backupd.cwd)
    answer = clean("backup", "--config", pair.config, "--json")
    assert answer.code == 0
    assert [(run["source"], run["outcome"]) for run in answer.json] == [("tasks", "published"), ("notes", "published")]
    pair.notes.unlink()
    answer = clean("backup", "--config", pair.config, "--json")
    assert answer.code == 1
    assert [(run["source"], run["outcome"]) for run in answer.json] == [("tasks", "unchanged"), ("notes", "failed")]


def test_one_of_several_sources_is_reported_as_one_object(pair: Pair) -> None:
    answer = Keyboard({})("backup", "--config", pair.config, "--source", "notes", "--json")
    assert (answer.code, answer.json["source"]) == (0, "notes")


def test_exit_code_of_failure_outranks_busy_store_which_outranks_warning(pair: Pair, backups: Path) -> None:
    pair.notes.unlink()
    break_catalog(backups)
    answer = Keyboard({})("backup", "--config", pair.config, "--json")
    assert [run["exit_code"] for run in answer.json] == [3, 1]
    assert answer.code == 1
    assert [line["event.action"] for line in log_lines(backups)].count("run.finished") == 2


def test_special_file_in_place_of_log_degrades_backup_and_is_left_unchanged(typed: Keyboard, backups: Path) -> None:
    backups.mkdir()
    (backups / "backup.log").symlink_to("/dev/full")
    answer = typed("backup", "--json")
    assert (answer.code, answer.json["outcome"]) == (3, "degraded")
    assert (backups / "backup.log").is_symlink()


def test_log_that_cannot_be_opened_degrades_backup_with_warning(typed: Keyboard, backups: Path) -> None:
    backups.mkdir()
    (backups / "backup.log").mkdir()
    answer = typed("backup", "--json")
    assert (answer.code, answer.json["outcome"]) == (3, "degraded")
    assert "backup.log cannot be written" in answer.json["warnings"][0]


@pytest.mark.cover_processes
def test_closed_output_pipe_causes_no_traceback_and_backup_is_published(backupd: Backupd, backups: Path) -> None:
    answer = into_closed_pipe(backupd, "backup", "--json")
    assert answer == (141, "")
    (manifest,) = backups.glob("*.manifest.json")
    assert json.loads(manifest.read_bytes())["verdict"]["level"] == "full"


@pytest.mark.cover_processes
@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_closed_standard_streams_do_not_prevent_backup(backupd: Backupd, backups: Path, descriptor: int) -> None:
    answer = with_closed(backupd, descriptor, "backup")
    assert (answer.code, answer.err) == (0, "")
    assert len(list(backups.glob("tasks-*.manifest.json"))) == 1
    assert answer.out.startswith("tasks: published") == (descriptor != 1)


@pytest.mark.cover_processes
@pytest.mark.parametrize(("send", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_terminated_command_reports_it_in_one_line(
    backupd: Backupd, backups: Path, generation: str, send: signal.Signals, word: str
) -> None:
    assert generation
    command = [sys.executable, "-m", "backupd", "backup"]
    with file_lock(backups / ".backupd" / "lock", "prune"):
        process = subprocess.Popen(command, env=backupd.environment(), stderr=subprocess.PIPE, text=True)
        wait_until(lambda: log_lines(backups)[-1]["event.action"] == "lock.waiting", "it waits for the lock")
        process.send_signal(send)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said.lstrip("\n")) == (128 + send, f"{word}; partial work was removed\n")


def test_database_without_tables_is_backed_up_with_note(typed: Keyboard, database: Path) -> None:
    database.unlink()
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    report = typed("backup", "--json")
    assert (report.code, report.json["notes"]) == (0, [f"{database} has no tables: is it the database of the app?"])


def test_source_named_twice_is_backed_up_once(typed: Keyboard) -> None:
    assert typed("backup", "--source", "tasks", "--source", "tasks", "--json").json["outcome"] == "published"
