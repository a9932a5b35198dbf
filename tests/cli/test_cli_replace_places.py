"""`backupd restore` in place on other file systems, in unusual directories, and from a read-only store."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from keyboard import Keyboard

from support.bank import spend, transfers
from support.command import Backupd, log_lines
from support.directories import beside, mounted, read_only, sha256


@contextmanager
def overlay(lower: Path) -> Iterator[Path]:
    """Lay a directory to write to over `lower`, as a container has it whose database is in its image."""
    directories = [lower.parent / name for name in ("upper", "work", "merged")]
    for directory in directories:
        directory.mkdir()
    upper, work, merged = directories
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", merged], check=True)
    try:
        yield merged
    finally:
        subprocess.run(["umount", merged], check=True)


@contextmanager
def linkless(directory: Path) -> Iterator[Path]:
    """Make a file system with so few inodes that a second name finds no room: link(2) fails, as on FAT."""
    disk = directory.parent / "linkless"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=4", "tmpfs", disk], check=True)
    try:
        shutil.copy(directory / "tasks.db", disk)
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def restored_and_undone(backupd: Backupd, moved: Path) -> None:
    """Assert that the generation takes the place of the database at `moved`, and that this comes back."""
    newer = sha256(moved)
    facts = backupd("restore", "--json", BACKUPD_DATABASE=str(moved)).json
    assert (sha256(moved), sha256(Path(facts["kept"]))) == (facts["snapshot_sha256"], newer)
    assert backupd("restore", "--undo", BACKUPD_DATABASE=str(moved)).code == 0
    assert sha256(moved) == newer


@pytest.mark.root
@pytest.mark.parametrize("mounted", [overlay, linkless])
def test_restore_and_undo_succeed_on_other_file_systems(
    backupd: Backupd, database: Path, newer: str, mounted: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    assert newer
    with mounted(database.parent) as place:
        restored_and_undone(backupd, place / "tasks.db")


def test_restore_and_undo_succeed_in_directory_with_name_outside_utf8(
    backupd: Backupd, database: Path, newer: str
) -> None:
    assert newer
    odd = database.parent.with_name(os.fsdecode(b"d\xff\xfe"))
    database.parent.rename(odd)
    database.parent.symlink_to(odd)
    restored_and_undone(backupd, database)


@pytest.mark.root
def test_restore_from_read_only_store_succeeds_with_warning_about_log_and_catalog(
    typed: Keyboard, database: Path, backups: Path, newer: str
) -> None:
    known = log_lines(backups)
    with read_only(backups) as seen:
        store = {"BACKUPD_BACKUPS_DIR": str(seen)}
        answer = typed("restore", **store)
        assert (answer.code, transfers(database)) == (3, 0)
        assert f"{seen} cannot be written: this run is neither in the log nor in the catalog" in answer.err
        assert (typed("restore", "--undo", **store).code, sha256(database)) == (3, newer)
        for dry_run in ([], ["--dry-run"]):
            refused = typed("restore", "--online", *dry_run, **store)
            assert (refused.code, sha256(database)) == (1, newer)
            assert "the safety backup cannot be stored" in refused.err
    assert log_lines(backups) == known
    spend(database)
    assert typed("restore").code == 0


@pytest.mark.root
@pytest.mark.parametrize("arguments", [["restore"], ["restore", "--online"], ["restore", "--undo"], ["doctor"]])
def test_restore_into_file_mounted_without_directory_is_refused_unchanged(
    typed: Keyboard, database: Path, newer: str, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "seen").mkdir()
    with mounted(database, tmp_path / "seen" / "tasks.db") as path:
        for dry_run in ([], ["--dry-run"]) if arguments[0] == "restore" else ([],):
            answer = typed(*arguments, *dry_run, BACKUPD_DATABASE=str(path))
            assert (answer.code, sha256(database), beside(database), beside(path)) == (1, newer, set(), set())
            assert "is mounted without its directory" in answer.out + answer.err
            assert f"-v {database.parent}:{path.parent}" in answer.out + answer.err


@pytest.mark.root
def test_restore_over_database_with_second_mount_is_refused(
    typed: Keyboard, database: Path, newer: str, tmp_path: Path
) -> None:
    with mounted(database, tmp_path / "elsewhere.db") as other:
        answer = typed("restore")
        assert (answer.code, sha256(database)) == (1, newer)
        assert f"is also mounted as {other}" in answer.err
