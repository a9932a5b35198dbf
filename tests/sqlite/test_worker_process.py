"""Worker processes: none outlives its parent, and each failure has a message."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from backupd.errors import WorkerFailed
from backupd.sqlite.worker_process import WorkerProcess, deadline_for
from support.app import running_app
from support.backup_runs import BackUp
from support.bank import make_bank
from support.command import Backupd
from support.processes import CopyObserver, children_of, has_open, is_gone, wait_until
from support.snapshots import Take

CHECK = {"path": "tasks.db", "writer": "3.40.1", "priority": {}, "thorough": "all"}
PARENT = """
import sys
from pathlib import Path
from backupd.sqlite.snapshot import take_snapshot
from backupd.system.directory import Directory
from backupd.sqlite.worker.protocol import SnapshotSettings
from backupd.sqlite.source import Source

database, staging, sys.executable = sys.argv[1:]
tell = lambda done, total: print("copying", flush=True)
take_snapshot(Source.inspect(Path(database)), SnapshotSettings(), Directory.open(staging), tell, tell)
"""

WATCHED_PARENT = """
import sys
from pathlib import Path
from backupd.sqlite.snapshot import take_snapshot
from backupd.sqlite.worker.protocol import SnapshotSettings
from backupd.sqlite.source import Source
from backupd.system.directory import Directory

database, staging = sys.argv[1:]
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
tell = lambda done, total: None
copy = take_snapshot(Source.inspect(Path(database)), SnapshotSettings(), Directory.open(staging), tell, tell)
assert copy.file.name in opened
print([name for name in opened if name.startswith(database)])
"""


def descendants(pid: int) -> list[int]:
    """Return all processes below one."""
    return [each for child in children_of(pid) for each in (child, *descendants(child))]


def test_parent_killed_during_copy_leaves_no_pinned_snapshot(tmp_path: Path, asleep: Callable[[int], None]) -> None:
    path, staging, python = tmp_path / "tasks.db", tmp_path / "staging", sys.executable
    staging.mkdir()
    make_bank(path, rows=60_000)
    asleep(1500)
    with running_app(path) as app:
        command = [python, "-c", PARENT, path, staging, sys.executable]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "copying\n"
            below = descendants(parent.pid)
            assert any(has_open(pid, path) for pid in below)
            app.sql("UPDATE account SET balance = balance + 1 WHERE id < 100")
            _, frames, moved = app.sql("PRAGMA wal_checkpoint(PASSIVE)")[0]
            assert moved < frames
            parent.kill()
        wait_until(lambda: all(is_gone(pid) for pid in below))
        assert app.sql("PRAGMA wal_checkpoint(TRUNCATE)") == [[0, 0, 0]]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)], ids=str)
def test_command_terminated_while_waiting_for_app_ends_its_child(
    database: Path, backupd: Backupd, backups: Path, sent: signal.Signals, code: int
) -> None:
    with running_app(database) as app:
        app.sql("PRAGMA journal_mode=DELETE")
        app.sql("BEGIN EXCLUSIVE")
        command = [
            "env",
            "--default-signal=INT",
            sys.executable,
            "-m",
            "backupd",
            "backup",
        ]  # a job of a shell ignores it
        with subprocess.Popen(command, env=backupd.environment(), cwd=backupd.cwd, stderr=subprocess.DEVNULL) as parent:
            wait_until(lambda: any(has_open(pid, database) for pid in children_of(parent.pid)))
            below = descendants(parent.pid)
            parent.send_signal(sent)
            assert parent.wait(20) == code
        wait_until(lambda: all(is_gone(pid) for pid in below))
        app.sql("COMMIT")
        left = [*(backups / ".backupd" / "staging").iterdir()]
        assert len(left) == (1 if sent == signal.SIGKILL else 0)
        assert backupd("backup").code == 0
    assert [*(backups / ".backupd" / "staging").iterdir()] == []


def test_child_killed_during_copy_fails_run_with_signal_name(
    tmp_path: Path, asleep: Callable[[int], None], back_up: BackUp
) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path, rows=60_000)
    asleep(1500)

    def kill() -> None:
        for pid in descendants(os.getpid()):
            if has_open(pid, path):
                os.kill(pid, signal.SIGKILL)

    backup_result = back_up(path, progress=CopyObserver(kill))
    assert backup_result.outcome == ("failed", 1)
    assert "was killed by signal 9" in backup_result.error
    assert (backup_result.generations, backup_result.staged) == ({}, [])


def test_killed_check_is_worker_failure_and_no_verdict(tmp_path: Path) -> None:
    make_bank(tmp_path / "tasks.db")
    with WorkerProcess("integrity_check", CHECK, tmp_path, deadline_for(0)) as child:
        os.kill(child._process.pid, signal.SIGKILL)
        with pytest.raises(WorkerFailed, match="killed by signal 9"):
            child.result()


def test_crashed_child_is_reported_with_last_lines(tmp_path: Path) -> None:
    with (
        WorkerProcess("integrity_check", {"path": "tasks.db"}, tmp_path, deadline_for(0)) as child,
        pytest.raises(WorkerFailed, match=r"ended with exit code 1: (?s:.)*KeyError: 'priority'"),
    ):
        child.result()


def test_exception_in_block_of_worker_process_ends_child(tmp_path: Path) -> None:
    make_bank(tmp_path / "tasks.db", rows=10_000)
    with pytest.raises(KeyboardInterrupt), WorkerProcess("integrity_check", CHECK, tmp_path, deadline_for(0)) as child:
        raise KeyboardInterrupt
    assert not Path(f"/proc/{child._process.pid}").exists()


def test_parent_never_opens_database(database: Path, tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    command = [sys.executable, "-c", WATCHED_PARENT, database, tmp_path / "staging"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_child_imports_nothing_from_working_directory(tmp_path: Path) -> None:
    make_bank(tmp_path / "tasks.db")
    for name in ("apsw", "json", "backupd"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('somebody else wrote this')")
    with (tmp_path / "tasks.db").open("rb") as copy:
        request, files = CHECK | {"held": copy.fileno()}, [copy.fileno()]
        with WorkerProcess("integrity_check", request, tmp_path, deadline_for(0), files) as child:
            assert child.result()["verdict"]["level"] == "full"


def test_finished_copy_leaves_no_process_with_database_open(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path)
    take(path)
    users = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(PermissionError):
            users += [entry.name] if has_open(int(entry.name), path) else []
    assert users == []
