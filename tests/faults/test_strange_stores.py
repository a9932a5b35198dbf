"""Stores changed by others: objects in the way, links that lead out, a store that is missing or read-only."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from workspaces import (
    RECOVERY_EVENTS,
    InitialState,
    Workspace,
    assert_all_verified,
    assert_next_backup_recovers,
    assert_nothing_lost,
    assert_tidy,
    events,
    sha256,
)

from backupd.log import Event
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX
from support.command import log_lines
from support.faults import BackupdRunner

DEAD_RUN = ".backupd/staging/run-dead"


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory that is no business of backupd's, and that nothing of it may reach."""
    home = tmp_path / "outside"
    (home / "run-of-theirs").mkdir(parents=True)
    (home / "run-of-theirs" / "diary.txt").write_text("dear diary")
    (home / "file.txt").write_text("not yours")
    before = {path: path.read_bytes() for path in home.rglob("*.txt")}
    state = (home / "file.txt").stat()
    yield home
    assert {path: path.read_bytes() for path in home.rglob("*.txt")} == before
    assert (home / "file.txt").stat()[:6] == state[:6]


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """Let a directory be mounted read-only during the block."""
    subprocess.run(["mount", "--bind", place, place], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def in_the_way(place: Path) -> None:
    """Put a file where a directory should be, and a directory where a file should be."""
    if place.is_dir():
        shutil.rmtree(place)
        place.write_text("in the way")
    else:
        place.unlink(missing_ok=True)
        place.mkdir()
        (place / "something").write_text("in the way")


@pytest.mark.parametrize("name", [".backupd", ".backupd/staging", ".backupd/removing", ".backupd/lock"])
def test_unexpected_file_in_staging_path_fails_backup_with_name_and_hint(
    name: str, workspace: Workspace, runner: BackupdRunner
) -> None:
    before = InitialState.of(workspace)
    in_the_way(workspace.backups / name)
    ended = runner.run(["backup"], workspace.environ)
    assert ended.code == 1
    assert str(workspace.backups / name) in ended.err
    assert "what to do: " in ended.err
    assert_nothing_lost(workspace, before)
    assert workspace.generations() == before.generations


@pytest.mark.parametrize("name", ["SHA256SUMS", ".backupd/SHA256SUMS.new", ".backupd/catalog.sqlite3"])
def test_unexpected_file_in_path_of_records_does_not_prevent_backup_or_is_reported(
    name: str, workspace: Workspace, runner: BackupdRunner
) -> None:
    generations = workspace.generations()
    in_the_way(workspace.backups / name)
    ended = runner.run(["backup"], workspace.environ)
    assert ended.code in (1, 3)
    assert str(workspace.backups / name) in ended.err
    assert (workspace.backups / name / "something").read_text() == "in the way"
    assert ended.code == 1 or len(workspace.generations().keys() - generations.keys()) == 1


@pytest.mark.parametrize("name", [".backupd", ".backupd/staging", ".backupd/removing"])
def test_link_in_place_of_staging_is_refused_and_not_followed(
    name: str, workspace: Workspace, runner: BackupdRunner, outside: Path
) -> None:
    before = InitialState.of(workspace)
    shutil.rmtree(workspace.backups / name)
    (workspace.backups / name).symlink_to(outside)
    for command in (["backup"], ["prune"], ["verify"], ["catalog", "rebuild"]):
        ended = runner.run(command, workspace.environ)
        assert ended.code == 1
        assert f"{workspace.backups / name} is a symbolic link" in ended.err
        assert "what to do: remove it" in ended.err
    assert_nothing_lost(workspace, before)
    (workspace.backups / name).unlink()
    assert_next_backup_recovers(workspace, runner)
    assert_all_verified(workspace, runner)


@pytest.mark.parametrize("name", [".backupd/lock", ".backupd/SHA256SUMS.new", "SHA256SUMS"])
def test_link_in_place_of_own_file_is_not_written_through(
    name: str, workspace: Workspace, runner: BackupdRunner, outside: Path
) -> None:
    (workspace.backups / name).unlink(missing_ok=True)
    (workspace.backups / name).symlink_to(outside / "file.txt")
    ended = runner.run(["backup"], workspace.environ)
    assert ended.code == (1 if name.endswith("lock") else 0)
    if ended.code:
        assert str(workspace.backups / name) in ended.err
    else:
        assert_tidy(workspace)


def test_links_in_staging_of_dead_run_are_removed_and_not_followed(
    workspace: Workspace, runner: BackupdRunner, outside: Path
) -> None:
    dead = workspace.backups / DEAD_RUN
    dead.mkdir()
    (dead / "copy").symlink_to(outside)
    (dead / "file").symlink_to(outside / "file.txt")
    linked = workspace.hidden / "staging" / "run-linked"
    linked.symlink_to(outside / "run-of-theirs")
    assert runner.run(["backup"], workspace.environ).code == 0
    assert Event.STAGING_SWEPT in events(workspace)
    assert not dead.exists()
    linked.unlink()
    assert_tidy(workspace)


@pytest.mark.root
def test_staging_of_dead_run_that_cannot_be_removed_is_logged_with_reason(
    workspace: Workspace, runner: BackupdRunner
) -> None:
    mounted = workspace.backups / DEAD_RUN / "copy"
    mounted.mkdir(parents=True)
    (workspace.backups / DEAD_RUN / "snapshot.sqlite3").write_bytes(b"half of it")
    subprocess.run(["mount", "-t", "tmpfs", "none", mounted], check=True)
    try:
        for times in (1, 2):
            assert runner.run(["prune"], workspace.environ).code == 0
            stuck = [
                line["message"] for line in log_lines(workspace.backups) if line["event.action"] == Event.STAGING_STUCK
            ]
            assert len(stuck) == times
            assert stuck[-1].endswith(f"{mounted}: a file system is mounted there, and nothing in it is removed")
            assert Event.STAGING_SWEPT not in events(workspace)
            assert [path.name for path in mounted.parent.iterdir()] == ["copy"], "the rest is gone"
    finally:
        subprocess.run(["umount", mounted], check=True)
    assert runner.run(["prune"], workspace.environ).code == 0
    assert events(workspace).count(Event.STAGING_SWEPT) == 1
    assert_tidy(workspace)


def test_linked_manifest_in_staging_of_dead_run_is_not_published(
    workspace: Workspace, runner: BackupdRunner, outside: Path
) -> None:
    stray = f"tasks-20200101-0000{ARCHIVE_SUFFIX}"
    (workspace.backups / stray).write_bytes(b"of somebody's")
    dead = workspace.backups / DEAD_RUN
    dead.mkdir()
    (dead / f"tasks-20200101-0000{MANIFEST_SUFFIX}").symlink_to(outside / "file.txt")
    assert runner.run(["backup"], workspace.environ).code == 0
    assert Event.PUBLISH_RECOVERED not in events(workspace)
    assert workspace.store.unpaired_files() == (stray,)
    assert (workspace.backups / stray).read_bytes() == b"of somebody's"


def test_files_of_others_in_staging_are_kept(workspace: Workspace, runner: BackupdRunner) -> None:
    staging, removing = workspace.hidden / "staging", workspace.hidden / "removing"
    (staging / "notes.txt").write_text("mine")
    (staging / "photos").mkdir()
    (staging / "photos" / "cat.jpg").write_text("meow")
    (removing / f"readme{MANIFEST_SUFFIX}").write_text("mine as well")
    (workspace.backups / f"readme{ARCHIVE_SUFFIX}").write_text("and mine")
    assert runner.run(["backup"], workspace.environ).code == 0
    assert (staging / "notes.txt").read_text() == "mine"
    assert (staging / "photos" / "cat.jpg").read_text() == "meow"
    assert (removing / f"readme{MANIFEST_SUFFIX}").read_text() == "mine as well"
    assert (workspace.backups / f"readme{ARCHIVE_SUFFIX}").read_text() == "and mine"
    assert not RECOVERY_EVENTS.intersection(events(workspace))


def test_generation_put_back_during_killed_removal_is_kept(workspace: Workspace, runner: BackupdRunner) -> None:
    newest = max(workspace.generations())
    note = workspace.hidden / "removing" / f"{newest}{MANIFEST_SUFFIX}"
    note.write_bytes(workspace.store.manifest(newest))
    files = workspace.files_of(newest)
    assert runner.run(["backup"], workspace.environ).code == 0
    assert workspace.files_of(newest) == files
    assert_tidy(workspace)


@pytest.mark.root
def test_store_on_read_only_disk_can_be_listed_and_restored(
    template: Workspace, tmp_path: Path, runner: BackupdRunner
) -> None:
    workspace = template.copy_to(tmp_path / "workspace")
    before = InitialState.of(workspace)
    newest = max(before.generations)
    with read_only(workspace.backups):
        assert [facts["id"] for facts in runner.run(["list", "--json"], workspace.environ).json] == sorted(
            before.generations, reverse=True
        )
        restored = runner.run(["restore", "--to", tmp_path / "restored.db", "--json"], workspace.environ)
        assert (restored.code, restored.json["generation"]) == (0, newest)
        assert sha256((tmp_path / "restored.db").read_bytes()) == restored.json["snapshot_sha256"]
        for command in (["backup"], ["prune"], ["catalog", "rebuild"]):
            ended = runner.run(command, workspace.environ)
            assert ended.code == 1, command
            assert "ead-only file system" in ended.err
            assert "what to do: " in ended.err
        assert_nothing_lost(workspace, before)
    assert_next_backup_recovers(workspace, runner)
    assert_all_verified(workspace, runner)


@pytest.mark.root
def test_store_on_read_only_disk_is_verified_in_temporary_directory_with_warning(
    workspace: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    damaged, *sound = workspace.generations()
    archive = bytearray(workspace.files_of(damaged)[0])
    archive[len(archive) // 2] ^= 1
    workspace.store.archive_path(damaged).write_bytes(archive)
    (tmp_path / "tmp").mkdir()
    environ = {**workspace.environ, "TMPDIR": str(tmp_path / "tmp")}
    with read_only(workspace.backups):
        ended = runner.run(["verify", "--all", "--json"], environ)
        assert ended.code == 1, ended
        assert {check["id"]: check["sound"] for check in ended.json} == {damaged: False, **dict.fromkeys(sound, True)}
        (unmarked,) = (check["warning"] for check in ended.json if check["warning"])
        assert unmarked == f"{damaged} could not be marked as damaged, and still counts: Read-only file system"
        assert ended.err == f"warning: {unmarked}\n"
        assert runner.run(["verify", *sound], environ).code == 0
    assert [*(tmp_path / "tmp").iterdir()] == []
    assert runner.run(["verify", damaged, "--json"], environ).json[0]["warning"] == ""
    workspace.store.archive_path(damaged).write_bytes(bytes(archive[: len(archive) // 2]))
    with read_only(workspace.backups):
        assert runner.run(["verify", damaged, "--json"], environ).json[0]["warning"] == "", "it is marked already"


@pytest.mark.root
def test_temporary_directory_too_small_for_verification_is_reported_beforehand(
    workspace: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", small], check=True)
    try:
        with read_only(workspace.backups):
            ended = runner.run(["verify"], {**workspace.environ, "TMPDIR": str(small)})
    finally:
        subprocess.run(["umount", small], check=True)
    assert ended.code == 1
    assert re.search(rf"unpacking tasks-[\d-]+ needs .* at {small}/backupd-\w+, where .* are free", ended.out)
    assert "set TMPDIR" in ended.out


@pytest.mark.parametrize("take_away", [shutil.rmtree, lambda path: path.rename(path.with_name("away"))])
def test_store_that_disappears_during_backup_fails_it_with_hint(
    take_away: Callable[[Path], object], large: Workspace, runner: BackupdRunner
) -> None:
    app_files = large.app_files()
    with large.stopped("copy/archive.part", "backup") as run:
        take_away(large.backups)
    assert run.returncode == 1
    told = (large.root / "err").read_text()
    assert "Traceback" not in told
    assert str(large.backups) in told
    assert "what to do: " in told
    assert large.app_files() == app_files
    assert runner.run(["backup"], large.environ).code == 0
    assert len(large.generations()) == 1
    assert_tidy(large)
