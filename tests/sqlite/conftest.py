"""What the tests of the sqlite room share."""

import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.model import NoProgress, Progress
from backupd.sqlite.snapshot import Snapshot, take_snapshot
from backupd.sqlite.source import Source
from backupd.sqlite.worker.protocol import SnapshotSettings
from backupd.system.directory import Directory
from backupd.system.worker_process import OnEvent, OnProgress
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest
from support.backup_runs import APP, BackUp, BackupResult
from support.bank import make_bank
from support.snapshots import SHORT_WAITS, Take

ASLEEP_S = 2.0


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """Take a snapshot of the database at a path into a new staging directory."""
    number = 0

    def snapshot(
        path: Path | str,
        settings: SnapshotSettings = SHORT_WAITS,
        on_progress: OnProgress = lambda _done, _total: None,
        on_event: OnEvent = lambda _event, _message: None,
        **allow: bool,
    ) -> Snapshot:
        nonlocal number
        number += 1
        staging = tmp_path / f"staging-{number}"
        staging.mkdir()
        source = Source.inspect(Path(path), **allow)
        return take_snapshot(source, settings, Directory.open(staging), on_progress, on_event)

    return snapshot


@pytest.fixture
def back_up(context: TaskContext) -> BackUp:
    """Back up the database at a path as the source `tasks`, and look at what that left in the store."""

    def run(
        path: Path, settings: SnapshotSettings = SHORT_WAITS, progress: Progress | None = None, **order: bool
    ) -> BackupResult:
        ordered = BackupRequest("tasks", path, settings, reserve_bytes=0, **order)
        report = backup(ordered, replace(context, progress=progress or NoProgress()))
        return BackupResult(report, context)

    return run


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], None]:
    """Let each copy that begins from now on sleep before it reads its N-th page: long enough to act in its middle."""

    def fall_asleep(at_page: int) -> None:
        script = tmp_path / "sleepy-python"
        inject = f"--inject=pread64:delay_enter={ASLEEP_S * 1e6:.0f}:when={at_page}"
        trace = f"strace -f -qq -o /dev/null --seccomp-bpf --trace=pread64 {inject}"
        script.write_text(f'#!/bin/sh\nexec {trace} {shlex.quote(sys.executable)} "$@"\n')
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return fall_asleep


@pytest.fixture
def data() -> Iterator[Path]:
    """A volume whose app runs as user 1234, where that user can reach it; its WAL database is cleanly closed."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        home = Path(name)
        home.chmod(0o755)
        directory = home / "data"
        directory.mkdir(mode=0o755)
        make_bank(directory / "tasks.db")
        for path in (directory, directory / "tasks.db"):
            os.chown(path, APP, APP)
        yield directory
