"""Stores in which others had their hands: things in the way, links that lead out, a store that is gone or read-only."""

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
def test_what_lies_where_the_work_is_done_ends_the_backup_with_its_name_and_advice(
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
def test_what_lies_where_only_notes_are_made_costs_no_backup_or_is_told(
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
def test_a_link_where_work_is_swept_is_refused_and_not_followed(
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


@pytest.mark.parametrize("name", [".backupd/lock", ".backupd/SHA256SUMS.new", "SHA256SUMS"])
def test_a_link_in_place_of_a_file_of_ours_is_not_written_through(
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


def test_links_in_the_work_of_a_dead_run_are_swept_and_not_followed(
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
def test_work_of_a_dead_run_that_cannot_be_swept_is_named_with_the_reason_until_it_can(
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
            assert stuck[-1].endswith("work run-dead of a killed run: copy: Device or resource busy")
            assert Event.STAGING_SWEPT not in events(workspace)
            assert [path.name for path in mounted.parent.iterdir()] == ["copy"], "the rest is gone"
    finally:
        subprocess.run(["umount", mounted], check=True)
    assert runner.run(["prune"], workspace.environ).code == 0
    assert events(workspace).count(Event.STAGING_SWEPT) == 1
    assert_tidy(workspace)


def test_a_linked_manifest_in_the_work_of_a_dead_run_publishes_nothing(
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


def test_what_others_put_among_the_work_stays_where_it_is(workspace: Workspace, runner: BackupdRunner) -> None:
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


def test_a_generation_that_was_put_back_while_its_removal_was_cut_short_stays(
    workspace: Workspace, runner: BackupdRunner
) -> None:
    newest = max(workspace.generations())
    note = workspace.hidden / "removing" / f"{newest}{MANIFEST_SUFFIX}"
    note.write_bytes(workspace.store.manifest(newest))
    files = workspace.files_of(newest)
    assert runner.run(["backup"], workspace.environ).code == 0
    assert workspace.files_of(newest) == files
    assert_tidy(workspace)


@pytest.mark.root
def test_from_a_store_on_a_read_only_disk_one_can_still_list_and_restore(
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


@pytest.mark.root
def test_a_store_on_a_read_only_disk_is_verified_beside_it_and_what_cannot_be_marked_is_said(
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
def test_a_temporary_directory_too_small_to_verify_a_read_only_store_in_is_said_beforehand(
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
    assert re.search(rf"unpacking tasks-[\d-]+ needs .* at {small}/backupd-\w+, where .* are free", ended.err)
    assert "set TMPDIR" in ended.err


@pytest.mark.parametrize("take_away", [shutil.rmtree, lambda path: path.rename(path.with_name("away"))])
def test_a_store_that_goes_away_in_the_middle_of_a_backup_fails_it_with_advice(
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
