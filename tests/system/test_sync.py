"""Making many files durable at once."""

import os
from pathlib import Path

import pytest

from backupd.system import sync
from backupd.system.sync import can_sync_at_once, sync_at_once


def test_file_system_of_an_open_directory_is_synced(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        sync_at_once(descriptor, str(tmp_path))
    finally:
        os.close(descriptor)


def test_failed_sync_is_an_error_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as failed:
        sync_at_once(-1, str(tmp_path))
    assert failed.value.filename == str(tmp_path)


def test_neither_unknown_file_system_nor_old_kernel_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not can_sync_at_once("/proc/self")
    monkeypatch.setattr(sync, "filesystem_of", lambda _path: "ext4")
    assert can_sync_at_once(str(tmp_path))
    monkeypatch.setattr(sync, "filesystem_of", lambda _path: "nfs4")
    assert not can_sync_at_once(str(tmp_path))
    monkeypatch.setattr(sync, "filesystem_of", lambda _path: "ext4")
    monkeypatch.setattr(sync, "_TELLS_ERRORS", (999, 0))
    assert not can_sync_at_once(str(tmp_path))
