"""A copy that hangs ends soon after `timeout_s`, with a hint for the operator."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from backupd.errors import SnapshotFailed
from backupd.sqlite.snapshot import probe_source
from backupd.sqlite.source import Source
from support.app import running_app
from support.backup_runs import BackUp
from support.bank import make_bank
from support.directories import through_fuse
from support.processes import children_of, copying_process, is_gone, serving, state_of, stopped, wait_until
from support.snapshots import SHORT_WAITS, Take, copy_into

TIMEOUT_S = 1.5
SOON_S = 15.0  # 3 s of grace, 5 s for a child that cannot even be killed, and a busy machine
IMPATIENT = SHORT_WAITS._replace(timeout_s=TIMEOUT_S, busy_timeout_s=60, network_fs="allow")
LATE = r"was not copied within 2 s: the worker process does not respond and was abandoned"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A rollback database in a directory of its own."""
    directory = tmp_path / "data"
    directory.mkdir()
    make_bank(directory / "tasks.db", "delete")
    return directory / "tasks.db"


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """An empty directory."""
    (tmp_path / "staging").mkdir()
    return tmp_path / "staging"


@contextmanager
def too_late() -> Iterator[None]:
    """Let the block fail with a clear word, hardly later than at `timeout_s`."""
    began = time.monotonic()
    with pytest.raises(SnapshotFailed, match=LATE) as failed:
        yield
    assert TIMEOUT_S < time.monotonic() - began < TIMEOUT_S + SOON_S
    assert "(dmesg); if they are slow, raise timeout_s" in failed.value.hint


def test_stopped_child_is_killed_and_releases_its_locks(path: Path, take: Take) -> None:
    with running_app(path) as app, ThreadPoolExecutor(1) as pool:
        app.sql("BEGIN EXCLUSIVE")
        copying = pool.submit(take, path, IMPATIENT)
        child = copying_process(path)
        with stopped(child), too_late():
            copying.result()
        assert is_gone(child)
        app.sql("UPDATE account SET balance = balance + 1")
        app.sql("COMMIT")


def test_run_with_hanging_child_fails_and_leaves_staging_empty(path: Path, back_up: BackUp) -> None:
    with running_app(path) as app, ThreadPoolExecutor(1) as pool:
        app.sql("BEGIN EXCLUSIVE")
        copying = pool.submit(back_up, path, IMPATIENT)
        with stopped(copying_process(path)):
            backup_result = copying.result()
        app.sql("COMMIT")
    assert backup_result.outcome == ("failed", 1)
    assert "was not copied within 2 s: the worker process does not respond" in backup_result.error
    assert (backup_result.generations, backup_result.staged) == ({}, [])
    assert back_up(path).outcome == ("published", 0)


@pytest.mark.root
def test_mount_without_answer_ends_copy_in_time(path: Path, staging: Path) -> None:
    others = children_of(os.getpid())  # servers of other tests
    with through_fuse(path.parent) as mount:
        source = Source.inspect(mount / path.name)
        with stopped(serving(mount)), too_late(), copy_into(staging, source, IMPATIENT):
            pass
        assert children_of(os.getpid()) == others


@pytest.mark.root
def test_mount_without_answer_ends_probe_in_time(path: Path, staging: Path) -> None:
    with through_fuse(path.parent) as mount:
        source = Source.inspect(mount / path.name)
        with stopped(serving(mount)), too_late():
            probe_source(source, IMPATIENT, staging)


@pytest.mark.root
def test_child_that_cannot_be_killed_is_abandoned_in_time(path: Path, staging: Path) -> None:
    others = children_of(os.getpid())
    with through_fuse(path.parent) as near, through_fuse(near) as far:
        source = Source.inspect(far / path.name)
        with stopped(serving(near)):  # what serves `far` took the request and waits: the kernel lets nobody go then
            with too_late(), copy_into(staging, source, IMPATIENT):
                pass
            (child,) = set(children_of(os.getpid())) - set(others)
            assert state_of(child) == "D"
        wait_until(lambda: children_of(os.getpid()) == others)
