"""Links that an app plants on the path to its database: no rights of root and no data of another app follow them."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.bank import make_bank, transfers
from support.command import CommandResult
from support.directories import sha256
from support.hardened import APP, GROUP, Volumes, volumes

pytestmark = [pytest.mark.root, pytest.mark.no_cover]
OTHER = 1235


@pytest.fixture
def app() -> Iterator[Volumes]:
    with volumes(mode=0o755) as made:
        yield made


@dataclass(frozen=True)
class TwoApps:
    """The volumes of two apps, in one backupd that runs as root."""

    mine: Volumes
    others: Path

    def backupd(self, *arguments: str, **environ: str) -> CommandResult:
        more = {"PUID": "0", "BACKUPD_SOURCES__OTHER__PATH": str(self.others / "other.db"), **environ}
        return self.mine.backupd(*arguments, **more)


@pytest.fixture
def two(app: Volumes) -> TwoApps:
    others = app.data.parent / "others"
    others.mkdir(mode=0o755)
    make_bank(others / "other.db", rows=500)
    for path in (others, others / "other.db"):
        os.chown(path, OTHER, OTHER)
    return TwoApps(app, others)


def planted(link: Path, target: Path | str) -> None:
    """Let the app put a link in place of what it has there."""
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    else:
        link.unlink(missing_ok=True)
    link.symlink_to(target)
    os.chown(link, APP, GROUP, follow_symlinks=False)


def state_of(directory: Path) -> dict[str, tuple[int, int, int, str]]:
    """Return owner, mode and digest of all files below a directory."""
    return {
        str(path.relative_to(directory)): (state.st_uid, state.st_gid, state.st_mode, sha256(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file() and (state := path.lstat())
    }


@pytest.mark.parametrize("target", ["/etc/passwd", "/etc/no-such-file", "/proc/self/environ"])
def test_auto_puid_leaves_root_for_link_to_file_of_root(app: Volumes, target: str) -> None:
    planted(app.database, target)
    for command in (["backup", "--json"], ["serve"]):
        refused = app.backupd(*command)
        assert refused.code == 78, refused
        assert str(app.database) in refused.err
        assert "PUID" in refused.err
    assert [*app.backups.iterdir()] == []


def test_auto_puid_leaves_root_for_linked_directory(app: Volumes) -> None:
    planted(app.data / "below", "/etc")
    refused = app.backupd("backup", BACKUPD_DATABASE=str(app.data / "below" / "passwd"))
    assert refused.code == 78
    assert f"{app.data / 'below'} is a link of user {APP} to /etc, which belongs to user 0" in refused.err


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_auto_puid_is_root_only_where_directory_and_database_belong_to_root(app: Volumes, mode: int) -> None:
    os.chown(app.database, 0, 0)
    refused = app.backupd("backup", "--json")
    assert refused.code == 78
    assert f"{app.data} belongs to user {APP}" in refused.json["error"]
    os.chown(app.data, 0, 0)
    app.data.chmod(mode)
    answer = app.backupd("backup", "--json")
    assert answer.code == (0 if mode == 0o755 else 78), answer
    assert ("runs as root" in answer.err) == (mode == 0o755)


def test_auto_puid_leaves_root_for_world_writable_directory(app: Volumes) -> None:
    app.database.unlink()
    os.chown(app.data, 0, 0)
    app.data.chmod(0o1777)
    assert app.backupd("backup").code == 78
    app.data.chmod(0o755)
    waiting = app.backupd("backup", "--json")
    assert (waiting.code, "no database at" in waiting.json["error"]) == (1, True)
    assert "runs as root" in waiting.err


@pytest.mark.parametrize(("puid", "said"), [("auto", []), ("0", ["backupd runs as root, as PUID says"])])
def test_doctor_reports_running_as_root(app: Volumes, puid: str, said: list[str]) -> None:
    findings = app.backupd("doctor", "--json", PUID=puid).json
    assert [finding["detail"] for finding in findings if finding["check"] == "user"] == said


@pytest.mark.parametrize("way", ["file", "directory", "chain"])
def test_link_to_database_of_another_app_is_not_backed_up(two: TwoApps, way: str) -> None:
    before = state_of(two.others)
    database = two.mine.database
    if way == "directory":
        planted(two.mine.data / "below", two.others)
        database = two.mine.data / "below" / "other.db"
    elif way == "chain":
        planted(two.mine.data / "second", f"../{two.others.name}/other.db")
        planted(database, "second")
    else:
        planted(database, two.others / "other.db")
    name = database.stem
    answer = two.backupd("backup", "--json", BACKUPD_DATABASE=str(database), BACKUPD_SOURCES__OTHER__PATH="")
    assert answer.code == 1, answer
    assert answer.json["outcome"] == "failed"
    assert f"is a link of user {APP}" in answer.json["error"]
    assert f"belongs to user {OTHER}" in answer.json["error"]
    assert not [*two.mine.backups.glob(f"{name}*")]
    findings = two.backupd("doctor", "--json", BACKUPD_DATABASE=str(database), BACKUPD_SOURCES__OTHER__PATH="")
    assert findings.code == 1
    assert f"is a link of user {APP}" in findings.out
    assert state_of(two.others) == before


def test_other_sources_are_backed_up_beside_refused_link(two: TwoApps) -> None:
    planted(two.mine.database, two.others / "other.db")
    answer = two.backupd("backup", "--json")
    outcomes = {report["source"]: report["outcome"] for report in answer.json}
    assert outcomes == {"tasks": "failed", "other": "published"}


@pytest.mark.parametrize("arguments", [["restore"], ["restore", "--undo"], ["restore", "--online"], ["clean"]])
@pytest.mark.parametrize("target", ["other.db", "new.db"])
def test_restore_does_not_follow_link_into_directory_of_another_app(
    two: TwoApps, arguments: list[str], target: str
) -> None:
    assert two.backupd("backup", "--source", "tasks").code == 0
    planted(two.mine.database, two.others / target)
    before = state_of(two.others)
    answer = two.backupd(
        *arguments, *(["--source", "tasks"] if arguments != ["restore"] else ["latest", "--source", "tasks"])
    )
    assert answer.code == 1, answer
    assert f"is a link of user {APP}" in answer.err
    assert state_of(two.others) == before
    assert transfers(two.others / "other.db") == 0


def test_link_to_target_of_same_owner_is_followed(app: Volumes) -> None:
    app.database.rename(app.data / "real.db")
    planted(app.database, "real.db")
    answer = app.backupd("backup", "--json")
    assert answer.code == 0, answer
    assert answer.json["outcome"] == "published"


def test_restore_to_new_file_does_not_follow_link_into_directory_of_another_app(two: TwoApps) -> None:
    assert two.backupd("backup", "--source", "tasks").code == 0
    planted(two.mine.data / "below", two.others)
    before = state_of(two.others)
    target = str(two.mine.data / "below" / "new.db")
    for more in ([], ["--dry-run"]):
        answer = two.backupd("restore", "--source", "tasks", "--to", target, *more)
        assert answer.code == 1, answer
        assert f"is a link of user {APP}" in answer.err
    assert state_of(two.others) == before
