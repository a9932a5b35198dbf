"""A mount that does not respond: who asks about it waits for a few seconds, and commands that do not need it go on."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backupd.system import mounts
from backupd.system.mounts import responding_stat, responds
from support.command import Backupd
from support.directories import through_fuse
from support.processes import serving, stopped, wait_until

pytestmark = pytest.mark.root


@pytest.fixture
def mount(database: Path) -> Iterator[Path]:
    """The directory of the database, through a mount that can be stopped."""
    with through_fuse(database.parent, "-o", "attr_timeout=0,entry_timeout=0") as mount:
        yield mount


def waiting() -> int:
    return sum(thread.name == "stat" for thread in threading.enumerate())


def test_dead_mount_holds_one_thread_for_all_who_ask(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "RESPONDS_S", 0.5)
    path = mount / "tasks.db"
    with stopped(serving(mount)):
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(responds, [path] * 8)) == [False] * 8
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="no answer within"):
            responding_stat(path)
        assert time.monotonic() - began < 0.4, "it is known to be dead"
        assert waiting() == 1
    wait_until(lambda: not waiting())
    assert responding_stat(path).st_ino == path.stat().st_ino
    with pytest.raises(FileNotFoundError):
        responding_stat(mount / "missing")
    assert responds(mount / "missing")


def test_signal_that_ends_probe_at_its_start_leaves_nothing_behind(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = list[object]()
    monkeypatch.setattr(threading, "excepthook", failures.append)
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    def end(*_: object) -> None:
        raise SystemExit

    before = signal.signal(signal.SIGUSR1, end)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(SystemExit):
                responding_stat(database)
    finally:
        signal.signal(signal.SIGUSR1, before)
    wait_until(lambda: not waiting())
    assert failures == []
    assert mounts._probes == {}
    assert responding_stat(database).st_ino == database.stat().st_ino


def test_status_list_and_restore_elsewhere_do_not_wait_for_dead_mount(
    backupd: Backupd, mount: Path, tmp_path: Path
) -> None:
    there = {"BACKUPD_DATABASE": str(mount / "tasks.db"), "BACKUPD_SOURCES__TASKS__NETWORK_FS": "allow"}
    assert backupd("backup", **there).code == 0
    target = tmp_path / "elsewhere.db"
    with stopped(serving(mount)):
        commands = (["status"], ["list"], ["restore", "latest", "--to", str(target)], ["prune"])
        with ThreadPoolExecutor(len(commands)) as pool:  # each waits for 5 s
            answers = [pool.submit(backupd, *command, timeout_s=60, **there) for command in commands]
        assert [answer.result().code for answer in answers] == [0] * len(commands), answers
    assert target.is_file()
