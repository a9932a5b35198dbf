"""A disk that is full before or during a run: nothing is lost, no partial files are left, and the hints work."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from workspaces import (
    InitialState,
    Workspace,
    assert_all_verified,
    assert_listed,
    assert_next_backup_recovers,
    assert_nothing_lost,
    assert_swept,
    assert_tidy,
    sha256,
)

from support.faults import BackupdRunner

pytestmark = pytest.mark.root
PAGE = 4096
PHOTO_BYTES = 400_000


@dataclass(frozen=True)
class Disk:
    """A file system of its own, whose size can be changed while it is in use."""

    root: Path

    def limit(self, pages: int = 1 << 14, inodes: int = 1 << 10) -> None:
        """Limit it to so many pages and inodes in all; by default more than any run needs."""
        options = f"remount,size={pages * PAGE},nr_inodes={inodes}"
        subprocess.run(["mount", "-o", options, self.root], check=True)

    def pages(self) -> int:
        """Return the pages in use."""
        state = os.statvfs(self.root)
        return state.f_blocks - state.f_bfree

    def inodes(self) -> int:
        """Return the inodes in use."""
        state = os.statvfs(self.root)
        return state.f_files - state.f_ffree


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """An empty tmpfs."""
    root = tmp_path / "disk"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=1k", "none", root], check=True)
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)


def add_photo(workspace: Workspace) -> None:
    """Let the app store what does not compress: the next archive is far larger than the last one promised."""
    with closing(sqlite3.connect(workspace.database)) as app, app:
        app.execute("CREATE TABLE photo(content BLOB)")
        app.execute("INSERT INTO photo VALUES (?)", (os.urandom(PHOTO_BYTES),))


def move_app(workspace: Workspace, directory: Path) -> None:
    """Let the database be on a disk of its own."""
    shutil.move(workspace.database.parent, directory)
    workspace.database.parent.symlink_to(directory)


def assert_reported(workspace: Workspace, runner: BackupdRunner, before: InitialState) -> bool:
    """Back up; assert that it worked, or failed for want of room and left all as it was. Returns whether it worked."""
    ended = runner.run(["backup"], workspace.environ)
    assert_nothing_lost(workspace, before)
    assert_swept(workspace)
    if ended.code == 1:
        assert re.search("what to do: (free|report|remove files there)", ended.err), ended.err
        assert workspace.generations() == before.generations
        assert workspace.store.unpaired_files() == ()
    else:
        assert ended.code in (0, 3), ended
        assert ended.code == 0 or "warning" in ended.err
    return ended.code != 1


def test_disk_of_any_size_holds_complete_new_generation_or_only_old_ones(
    template: Workspace, disk: Disk, runner: BackupdRunner, tmp_path: Path
) -> None:
    shop = template.copy_to(tmp_path / "shop")
    add_photo(shop)
    before = InitialState.of(shop)

    def fits(pages: int) -> bool:
        workspace = shop.copy_to(disk.root / "workspace")
        disk.limit(pages=disk.pages() + pages)
        worked = assert_reported(workspace, runner, before)
        disk.limit()
        if not worked:
            assert_tidy(workspace)
        workspace.app_writes()
        shutil.rmtree(workspace.root)
        return worked

    enough, too_few = 1024, 0
    assert fits(enough)
    assert not fits(too_few)
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        enough, too_few = (middle, too_few) if fits(middle) else (enough, middle)
    for fewer in range(2, 8):
        fits(too_few - fewer)


def test_app_on_another_disk_is_unaffected_by_full_backup_disk(
    template: Workspace, disk: Disk, runner: BackupdRunner, tmp_path: Path
) -> None:
    before = InitialState.of(template)
    workspace = template.copy_to(disk.root / "workspace")
    move_app(workspace, tmp_path / "data")
    disk.limit(pages=disk.pages() + 1)
    assert not assert_reported(workspace, runner, before)
    disk.limit()
    assert_next_backup_recovers(workspace, runner)
    assert_all_verified(workspace, runner)


def test_disk_with_any_number_of_inodes_holds_complete_new_generation_or_only_old_ones(
    template: Workspace, disk: Disk, runner: BackupdRunner, tmp_path: Path
) -> None:
    before = InitialState.of(template)
    for inodes in range(20):
        workspace = template.copy_to(disk.root / f"workspace-{inodes}")
        move_app(workspace, tmp_path / f"data-{inodes}")
        disk.limit(inodes=disk.inodes() + inodes)
        worked = assert_reported(workspace, runner, before)
        disk.limit()
        assert_next_backup_recovers(workspace, runner)
        shutil.rmtree(workspace.root)
        if worked:
            break
    assert worked
    assert inodes > 3


def test_prune_and_restore_on_full_disk_succeed(
    template: Workspace, disk: Disk, runner: BackupdRunner, tmp_path: Path
) -> None:
    before = InitialState.of(template)
    workspace = replace(template.copy_to(disk.root / "workspace"), kept=1)
    disk.limit(disk.pages(), disk.inodes())
    restored = runner.run(["restore", "--to", tmp_path / "restored.db", "--json"], workspace.environ)
    assert restored.code == 0, restored.err
    assert sha256((tmp_path / "restored.db").read_bytes()) == restored.json["snapshot_sha256"]
    *going, newest = before.generations
    assert runner.run(["prune"], workspace.environ).code in (0, 3)
    assert [*workspace.generations()] == [newest]
    disk.limit()
    assert_nothing_lost(workspace, before, going)
    assert_listed(workspace, runner)
    assert_tidy(workspace, "prune")


def test_log_on_full_disk_loses_only_the_line_that_was_cut(
    template: Workspace, disk: Disk, runner: BackupdRunner
) -> None:
    workspace = template.copy_to(disk.root / "workspace")
    log = workspace.backups / "backup.log"
    filler = b'{"event.action": "test"}\n'
    with log.open("ab") as stream:
        stream.write(filler * ((-log.stat().st_size - 60) % PAGE // len(filler)))
    disk.limit(pages=disk.pages())
    assert runner.run(["backup"], workspace.environ).code == 1
    assert not log.read_bytes().endswith(b"\n")
    disk.limit()
    assert runner.run(["backup"], workspace.environ).code == 0
    lines = log.read_text().splitlines()
    (cut,) = (number for number, line in enumerate(lines) if not is_json(line))
    after = [json.loads(line)["event.action"] for line in lines[cut + 1 :]]
    assert (after[0], after[-1]) == ("run.started", "run.finished")


def is_json(line: str) -> bool:
    """Tell whether a reader of the log can make sense of `line`."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
