"""How a live database is copied: what its writers feel, and when the copy gives up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backupd.errors import SnapshotFailed
from backupd.sqlite.process import Child
from backupd.sqlite.snapshot import SnapshotSettings
from support.bank import is_balanced, make_bank, running_bank
from support.snapshots import Take

ROWS = 150_000  # about 27 MiB: more than one unpinned step


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "it never came to be"
        time.sleep(0.01)


def children_of(pid: int) -> list[int]:
    try:
        return [int(c) for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
    except FileNotFoundError:
        return []


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; one that nobody waits for has no command line any more."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_large_wal_database_under_a_hard_writer_is_one_consistent_copy(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "bank.db"
    make_bank(path, "wal", rows=ROWS)
    with running_bank(path, rows=ROWS) as bank:
        bank.wait_for_commits(50)
        copy = take(path, SnapshotSettings())
        bank.wait_for_commits(50)
    assert is_balanced(copy.path, ROWS)
    assert copy.writers_held_s == 0


def test_a_busy_rollback_database_is_pinned_when_that_fits_the_budget(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "bank.db"
    make_bank(path, "delete", rows=ROWS)
    with running_bank(path, "delete", rows=ROWS) as bank:
        bank.wait_for_commits(20)
        copy = take(path, SnapshotSettings(writer_budget_s=30))
        bank.wait_for_commits(20)
    assert is_balanced(copy.path, ROWS)
    assert copy.writers_held_s > 0


def test_over_the_budget_a_quiet_moment_is_waited_for_and_used(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "bank.db"
    make_bank(path, "delete", rows=ROWS)
    with running_bank(path, "delete", pause_s=0.25, rows=ROWS) as bank:
        bank.wait_for_commits(2)
        copy = take(path, SnapshotSettings(writer_budget_s=1e-6))
        bank.wait_for_commits(2)
    assert is_balanced(copy.path, ROWS)


def test_a_database_that_nobody_writes_to_is_copied_without_holding_it(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "bank.db"
    make_bank(path, "delete", rows=ROWS)
    assert take(path, SnapshotSettings()).writers_held_s == 0


def test_a_child_whose_parent_is_killed_ends_and_lets_the_app_go(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    make_bank(path, "delete", rows=1000)
    code = (
        "import sys; from pathlib import Path; from backupd.sqlite.process import Child;"
        "from backupd.sqlite.snapshot import SnapshotSettings, _request; from backupd.sqlite.source import Source;"
        "source = Source.inspect(Path(sys.argv[1]));"
        "Child('copy', _request(source, SnapshotSettings(busy_timeout_s=600), probe=False), Path(sys.argv[2])).result()"
    )
    from support.app import running_app

    with running_app(path) as app:
        app.sql("BEGIN EXCLUSIVE")
        parent = subprocess.Popen([sys.executable, "-c", code, str(path), str(tmp_path)])
        wait_until(lambda: bool(children_of(parent.pid)) and (tmp_path / "snapshot.sqlite3").exists())
        (child,) = children_of(parent.pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait_until(
            lambda: not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes()
        )
        app.sql("COMMIT")


def test_a_child_that_is_killed_is_a_clear_failure(tmp_path: Path) -> None:
    make_bank(tmp_path / "bank.db")
    with Child("check", {"path": "bank.db", "writer": "3.40.1", "priority": {}}, tmp_path) as child:
        os.kill(child._process.pid, signal.SIGKILL)
        with pytest.raises(SnapshotFailed, match="killed by signal 9"):
            child.result()


def test_a_child_that_breaks_down_is_a_clear_failure(tmp_path: Path) -> None:
    request = {"path": "missing.db", "writer": "3.40.1", "priority": {}}
    with Child("check", request, tmp_path) as child, pytest.raises(SnapshotFailed, match="ended with 1"):
        child.result()


def test_a_block_that_is_left_takes_its_child_with_it(tmp_path: Path) -> None:
    make_bank(tmp_path / "bank.db", rows=ROWS)
    request = {"path": "bank.db", "writer": "3.40.1", "priority": {"idle_cpu": True}}
    with pytest.raises(KeyboardInterrupt), Child("check", request, tmp_path) as child:
        raise KeyboardInterrupt
    assert not Path(f"/proc/{child._process.pid}").exists()
