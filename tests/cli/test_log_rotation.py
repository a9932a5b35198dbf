"""`backup.log` is rotated by one of several processes, and no line is lost."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backupd.log import Event, LogSettings, open_log
from backupd.log_reader import LogLine, older_files, read_all_lines
from support.command import Backupd

WRITER = """
import sys
from pathlib import Path
from backupd.log import Event, LogSettings, open_log
log = open_log(Path(sys.argv[1]), settings=LogSettings(max_bytes=20_000, kept=99))
for number in range(int(sys.argv[3])):
    log.info(Event.RUN_STARTED, f"{sys.argv[2]} {number}")
"""


def messages(path: Path) -> list[str]:
    return [LogLine.parse(line).message for batch in read_all_lines(path) for line in batch]


def write(path: Path, count: int, settings: LogSettings) -> None:
    log = open_log(path, settings=settings)
    for number in range(count):
        log.info(Event.RUN_STARTED, f"line {number}")
    log.close()


def test_large_log_is_numbered_and_only_configured_number_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "backup.log"
    write(path, 400, LogSettings(max_bytes=5_000, kept=2))
    assert [file.name for file in older_files(path)] == ["backup.log.2", "backup.log.1"]
    assert all(file.stat().st_size < 5_500 for file in tmp_path.iterdir())
    kept = messages(path)
    assert kept == [f"line {number}" for number in range(400 - len(kept), 400)]


def test_log_is_rotated_over_directories_in_place_of_old_logs(tmp_path: Path) -> None:
    path = tmp_path / "backup.log"
    for number in (1, 2, 3):
        (tmp_path / f"backup.log.{number}" / "planted").mkdir(parents=True)
    write(path, 400, LogSettings(max_bytes=5_000, kept=3))
    assert {file.name for file in tmp_path.iterdir()} == {"backup.log", *(f"backup.log.{n}" for n in (1, 2, 3))}
    assert all(file.is_file() and file.stat().st_size < 5_500 for file in tmp_path.iterdir())


def test_log_without_limit_stays_one_file(tmp_path: Path) -> None:
    write(tmp_path / "backup.log", 400, LogSettings(max_bytes=0))
    assert [file.name for file in tmp_path.iterdir()] == ["backup.log"]


def test_several_processes_rotate_one_log_without_losing_lines(tmp_path: Path) -> None:
    path = tmp_path / "backup.log"
    command = (sys.executable, "-c", WRITER, path)
    writers = [subprocess.Popen([*command, name, "300"]) for name in ("one", "two", "three")]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(older_files(path)) > 3
    found = messages(path)
    assert sorted(found) == sorted(f"{name} {number}" for name in ("one", "two", "three") for number in range(300))


@pytest.mark.parametrize("obstacle", [Path.mkdir, lambda path: path.symlink_to("/etc/passwd")])
def test_directory_in_place_of_old_log_is_no_error_and_nothing_outside_changes(
    tmp_path: Path, obstacle: Callable[[Path], None]
) -> None:
    path = tmp_path / "backup.log"
    before = Path("/etc/passwd").read_bytes()
    obstacle(tmp_path / "backup.log.1")
    write(path, 100, LogSettings(max_bytes=5_000, kept=1))
    assert "line 99" in path.read_text()
    assert Path("/etc/passwd").read_bytes() == before


def test_log_line_begins_with_time_and_console_prints_json_on_request(tmp_path: Path) -> None:
    console = io.StringIO()
    log = open_log(tmp_path / "backup.log", console=console, settings=LogSettings(json=True))
    log.warning(Event.RUN_INTERRUPTED, "cut short", task="backup")
    log.close()
    (line,) = console.getvalue().splitlines()
    assert line == (tmp_path / "backup.log").read_text().strip()
    assert list(json.loads(line))[:2] == ["@timestamp", "message"]
    assert json.loads(line)["backupd.task"] == "backup"


def test_configured_settings_reach_log(backupd: Backupd, backups: Path, generation: str) -> None:
    environ = {"BACKUPD_LOG__MAX_SIZE": "1kB", "BACKUPD_LOG__KEEP": "1"}
    assert generation
    assert backupd("backup", "--no-pin", **environ).code == 0
    assert (backups / "backup.log.1").exists()
    for keep in ("0", "100"):
        assert backupd("config", "check", BACKUPD_LOG__KEEP=keep).code == 78
    refused = backupd("config", "check", BACKUPD_LOG__FORMAT="xml")
    assert (refused.code, "must be 'plain' or 'json'" in refused.err) == (78, True)
