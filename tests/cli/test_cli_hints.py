"""Errors of files are reported by cause: permissions, inodes, quotas and dangling links are no disk errors."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.errors import NoSpace
from backupd.system.os_errors import explain_full, os_error_hint, os_error_text
from backupd.system.resources import require_space
from support.command import Backupd


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    """A file system with much room, and ten inodes left."""
    root = tmp_path / "few"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=11", "none", root], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)


@pytest.mark.root
def test_file_system_without_inode_count_is_not_called_full(backupd: Backupd, few_inodes: Path) -> None:
    environ = {"BACKUPD_BACKUPS_DIR": str(few_inodes / "backups")}
    answer = backupd("backup", **environ)
    assert answer.code == 1
    assert "has no free inodes, though it has free space" in answer.err
    assert f"what to do: remove files there (df -i {few_inodes}" in answer.err
    assert "no free inodes" in backupd("doctor", **environ).out
    with pytest.raises(NoSpace, match=r"a drill cannot begin: the file system of .* has no free inodes"):
        require_space(few_inodes, 1, 0, "a drill", 12)
    (few_inodes / "many").mkdir()
    with pytest.raises(OSError, match="No space left") as failed:
        use_up(few_inodes / "many")
    assert explain_full(failed.value, few_inodes / "x")[0].endswith("no free inodes, though it has free space")


@pytest.mark.root
def test_mounted_replica_without_inodes_is_named(backupd: Backupd, few_inodes: Path) -> None:
    for number in range(6):
        (few_inodes / str(number)).touch()
    assert backupd("backup").code == 0
    answer = backupd("replicate", BACKUPD_REPLICAS__NAS__URL=f"file:{few_inodes}/nas")
    assert answer.code == 1
    assert "replicate of nas: " in answer.err
    assert "has no free inodes, though it has free space" in answer.err


def use_up(directory: Path) -> None:
    """Make more files than there are inodes."""
    for number in range(20):
        (directory / str(number)).touch()


def test_quota_and_full_disk_have_different_hints(tmp_path: Path) -> None:
    quota, full = (OSError(number, os.strerror(number), str(tmp_path / "x")) for number in (errno.EDQUOT, errno.ENOSPC))
    assert explain_full(quota, tmp_path)[0] == f"the quota on the file system of {tmp_path} is used up"
    assert os_error_hint(quota).startswith("raise the quota")
    assert explain_full(full, tmp_path)[0] == f"the file system of {tmp_path} is full"
    assert os_error_hint(full) == f"free space on the file system of {tmp_path}"
    assert "mount" in os_error_hint(OSError(errno.EROFS, "Read-only file system", str(tmp_path)))
    assert "dmesg" in os_error_hint(OSError(errno.EIO, "Input/output error", str(tmp_path)))


def test_dangling_link_is_named_with_target(backupd: Backupd, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/nowhere/data")
    database = backupd("backup", BACKUPD_DATABASE=str(link))
    assert f"no database at {link}: {link} is a symbolic link to /nowhere/data, which does not exist" in database.err
    below = backupd("doctor", BACKUPD_DATABASE=str(link / "tasks.db"))
    assert f"{link} is a symbolic link to /nowhere/data" in below.out
    for directory in (link, link / "below"):
        backups = backupd("backup", BACKUPD_BACKUPS_DIR=str(directory))
        assert (backups.code, f"error: {link} is a symbolic link to /nowhere/data" in backups.err) == (1, True)
    with pytest.raises(FileNotFoundError) as missing:
        (link / "x").read_bytes()
    assert os_error_text(missing.value).endswith(
        f"x ({link} is a symbolic link to /nowhere/data, which does not exist)"
    )


@pytest.mark.no_cover  # who has no rights here cannot write what coverage measures
@pytest.mark.root
@pytest.mark.parametrize("command", ["backup", "list", "doctor"])
def test_missing_permission_is_not_reported_as_disk_error(backupd: Backupd, database: Path, command: str) -> None:
    os.chown(database.parent, 1000, 1000)
    database.parent.chmod(0o700)
    for directory in database.parent.parents:
        directory.chmod(directory.stat().st_mode | 0o001)
    answer = backupd(command, BACKUPD_BACKUPS_DIR=str(database.parent / "backups"), PUID="999", PGID="999")
    assert answer.code == 1
    assert "user 999:999 lacks the rights to" in answer.out + answer.err
    assert "PUID=auto" in answer.out + answer.err
    assert "disk" not in answer.out + answer.err
