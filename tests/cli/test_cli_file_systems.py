"""File systems with limits: backupd works within them, reports each once, and never discards a finished copy."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from keyboard import Keyboard

from backupd.system.fs import collect_limits, fsync_directory
from support.bank import is_balanced
from support.command import Backupd
from support.directories import sha256, through_fuse
from support.faults import Call, traced
from support.fork_server import CommandResult

SYNC = "cannot fsync directories (Invalid argument): a power failure may take back the last renames there"


@pytest.fixture
def fat() -> Iterator[Path]:
    """A directory in which all files have mode 0755 and user 1000, and keep them, as on FAT or SMB."""
    options = ("--perms=0755", "--force-user=1000", "--force-group=1000", "--chmod-deny", "--chown-deny")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        home = Path(name)
        home.chmod(0o755)
        (home / "fat").mkdir()
        with through_fuse(home / "fat", *options) as mount:
            yield mount


def without_directory_fsync(backupd: Backupd, place: Path, *arguments: str | Path, **environ: str) -> CommandResult:
    """Run a command for which fsync(2) of the directory `place` says EINVAL."""
    ended, calls = traced(
        backupd.environment(**environ),
        backupd.cwd,
        "fsync",
        "fsync:error=EINVAL",
        follow=False,
        arguments=arguments,
        path=place,
    )
    assert injected(calls)
    return ended


def injected(calls: list[Call]) -> list[Call]:
    return [call for call in calls if "(INJECTED)" in call.text]


def test_directory_without_fsync_is_noted_once() -> None:
    with collect_limits() as limits:
        for _ in range(2):
            fsync_directory(Path("/proc/self"))
        assert [*limits] == [f"the file system of /proc/self {SYNC}"]


@pytest.mark.parametrize("command", ["backup", "replicate", "restore", "doctor"])
def test_command_without_directory_fsync_succeeds_with_one_note(backupd: Backupd, tmp_path: Path, command: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    if command in ("replicate", "restore"):
        assert backupd("backup").code == 0
    arguments = ("--to", place / "tasks.db") if command == "restore" else ()
    where = {"BACKUPD_REPLICAS__NAS__URL" if command == "replicate" else "BACKUPD_BACKUPS_DIR": str(place)}
    if command == "replicate":
        where["BACKUPD_REPLICAS__NAS__URL"] = f"file:{place}"
    ended = without_directory_fsync(backupd, place, command, *arguments, **({} if command == "restore" else where))
    assert ended.code == 0, ended.err
    assert ended.out.count(f"the file system of {place} {SYNC}") == 1
    if command == "restore":
        assert is_balanced(place / "tasks.db")
    elif command != "doctor":
        assert len([*place.glob("*.manifest.json")]) == 1


def test_dry_run_without_directory_fsync_has_note_of_run(backupd: Backupd, generation: str, database: Path) -> None:
    assert generation
    notes = [
        without_directory_fsync(backupd, database.parent, "restore", "--json", *options).json["notes"]
        for options in (["--dry-run"], [], ["--undo", "--dry-run"], ["--undo"])
    ]
    assert notes == [[f"the file system of {database.parent} {SYNC}"]] * 4


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_directory_fsync_that_fails_for_another_reason_fails_restore(
    backupd: Backupd, generation: str, target: Path, error: str
) -> None:
    assert generation
    ended, calls = traced(
        backupd.environment(),
        backupd.cwd,
        "fsync",
        f"fsync:error={error}",
        follow=False,
        arguments=("restore", "--to", target),
        path=target.parent,
    )
    assert injected(calls)
    assert ended.code == 1


@pytest.mark.root
def test_store_with_world_readable_files_is_used_with_warning(typed: Keyboard, fat: Path) -> None:
    note = f"the file system of {fat} gives files mode 0755 instead of 0600: other users may have access"
    store = {"BACKUPD_BACKUPS_DIR": str(fat)}
    answer = typed("backup", **store)
    assert (answer.code, answer.err, answer.out.count(note)) == (0, "", 1)
    examined = typed("doctor", "--json", **store)
    assert examined.code == 0
    (finding,) = [found for found in examined.json if found["check"] == "backups directory"]
    assert note in finding["detail"]


@pytest.mark.root
@pytest.mark.parametrize("there", [True, False], ids=["over an old one", "where there is none"])
def test_restore_in_place_without_chmod_and_chown_matches_dry_run(
    typed: Keyboard, database: Path, generation: str, fat: Path, there: bool
) -> None:
    assert generation
    moved = fat / "tasks.db"
    if there:
        moved.write_bytes(database.read_bytes())
    command = ("restore", "--app-is-stopped", "--json")
    said, done = (typed(*command, *dry_run, BACKUPD_DATABASE=str(moved)).json for dry_run in (["--dry-run"], []))
    assert [said[key] for key in ("owner", "mode", "notes")] == [done[key] for key in ("owner", "mode", "notes")]
    assert (done["owner"], done["mode"]) == ("1000:1000", "0755")
    assert sha256(moved) == done["snapshot_sha256"]


@pytest.mark.root
def test_restore_and_drill_on_disk_with_one_owner_name_that_owner(typed: Keyboard, generation: str, fat: Path) -> None:
    assert generation
    done = typed("restore", "--to", fat / "new.db", "--json")
    assert (done.code, done.json["owner"], done.json["mode"]) == (0, "1000:1000", "0755")
    place = {"BACKUPD_DRILL__PLACE_AT": str(fat / "tasks.db"), "BACKUPD_DRILL__COMMAND": f"test -s {fat / 'tasks.db'}"}
    drilled = typed("drill", **place)
    assert (drilled.code, drilled.err) == (0, "")
    assert f"files in {fat} cannot be given to 0:0 (Operation not permitted)" in drilled.out
    assert {path.name for path in fat.iterdir()} == {"new.db"}


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o644, 0o660])
def test_restore_without_chmod_reports_mode_of_new_file(
    typed: Keyboard, tmp_path: Path, database: Path, mode: int
) -> None:
    database.chmod(mode)
    assert typed("backup").code == 0
    (tmp_path / "zfs").mkdir()
    with through_fuse(tmp_path / "zfs", "--chmod-deny") as mount:
        said, done = (
            typed("restore", "--to", mount / "new.db", "--json", *dry_run).json for dry_run in (["--dry-run"], [])
        )
        assert (mount / "new.db").stat().st_mode & 0o777 == 0o600
    assert said == {**done, "dry_run": True}
    assert (done["mode"], len(done["notes"])) == ("0600", 1)
    assert (
        f"gives files mode 0600 instead of {mode:04o}: users other than the owner may lack access" in done["notes"][0]
    )
