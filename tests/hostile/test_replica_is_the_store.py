"""A replica that is the local store by any route is refused: it is no off-site copy, and loses nothing."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from support.command import Backupd
from support.directories import contents, mounted, through_fuse
from support.sshd import Sshd

pytestmark = pytest.mark.no_cover

Way = Callable[[Path, Path], AbstractContextManager[Path]]


@contextmanager
def same_path(backups: Path, _other: Path) -> Iterator[Path]:
    yield backups


@contextmanager
def by_link(backups: Path, other: Path) -> Iterator[Path]:
    other.symlink_to(backups)
    yield other


@contextmanager
def by_bind_mount(backups: Path, other: Path) -> Iterator[Path]:
    with mounted(backups, other):
        yield other


@contextmanager
def by_another_file_system(backups: Path, _other: Path) -> Iterator[Path]:
    with through_fuse(backups) as mount:
        yield mount


def over_sftp(sshd: Sshd, path: Path) -> dict[str, str]:
    return {
        "BACKUPD_REPLICAS__NAS__URL": f"sftp://{sshd.user}@127.0.0.1:{sshd.port}{path}",
        "BACKUPD_REPLICAS__NAS__HOST_KEY": sshd.host_key(),
        "BACKUPD_REPLICAS__NAS__PRIVATE_KEY_FILE": str(sshd.key),
    }


def in_directory(path: Path) -> dict[str, str]:
    return {"BACKUPD_REPLICAS__NAS__URL": f"file:{path}"}


@pytest.fixture(
    params=[
        same_path,
        by_link,
        pytest.param(by_bind_mount, marks=pytest.mark.root),
        pytest.param(by_another_file_system, marks=pytest.mark.root),
        "sftp",
        "sftp through a link",
    ],
    ids=lambda way: way if isinstance(way, str) else way.__name__,
)
def itself(request: pytest.FixtureRequest, backupd: Backupd, backups: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The configuration of a replica that is the local store, which has a generation."""
    assert backupd("backup").code == 0
    other = tmp_path / "other"
    if callable(request.param):
        with request.param(backups, other) as path:
            yield in_directory(path)
    else:
        other.symlink_to(backups)
        path = other if "link" in request.param else backups
        yield over_sftp(request.getfixturevalue("sshd"), path)


def generations(backups: Path) -> dict[str, bytes]:
    """Return names and contents of what must stay."""
    return {name: data for name, data in contents(backups).items() if name.startswith("tasks-")}


def test_local_store_as_replica_is_refused_by_every_command(
    backupd: Backupd, itself: dict[str, str], backups: Path
) -> None:
    before = generations(backups)
    key = min(before).partition(".")[0]
    for command in (
        ("replicate",),
        ("replicate", "--dry-run"),
        ("replicate", "--adopt", "--force"),
        ("remove", key, "--store", "nas", "--force"),
        ("verify", "--all", "--store", "nas"),
        ("drill", "--from", "nas"),
        ("restore", "--from", "nas", "--to", backups.parent / "restored.db"),
    ):
        answer = backupd(*command, **itself)
        assert answer.code == 78, (command, answer)
        assert "itself" in answer.err, (command, answer)
    assert generations(backups) == before
    assert not (backups.parent / "restored.db").exists()
    (listed,) = backupd("list", "--json").json
    assert listed["stores"] == ["local"], "it counts in one place"
    assert not list((backups / ".backupd/staging").iterdir())


def test_doctor_reports_local_store_as_replica_before_first_backup(backupd: Backupd, backups: Path, sshd: Sshd) -> None:
    backups.mkdir()
    findings = backupd("doctor", "--json", **over_sftp(sshd, backups)).json
    (found,) = [finding for finding in findings if finding["check"] == "replica nas"]
    assert (found["ok"], "itself" in found["detail"]) == (False, True), found
    assert backupd("replicate", **over_sftp(sshd, backups)).code == 78


@pytest.fixture(params=["directory", "sftp"])
def leading_to(request: pytest.FixtureRequest) -> Callable[[Path], dict[str, str]]:
    """Return the configuration of a replica in a directory of this machine."""
    if request.param == "directory":
        return in_directory
    sshd = request.getfixturevalue("sshd")
    return lambda path: over_sftp(sshd, path)


def test_cloned_volume_is_read_and_never_written(
    backupd: Backupd, backups: Path, tmp_path: Path, leading_to: Callable[[Path], dict[str, str]]
) -> None:
    assert backupd("backup").code == 0
    clone = tmp_path / "clone"
    shutil.copytree(backups, clone)
    before = contents(clone)
    replica = leading_to(clone)
    assert backupd("restore", "--from", "nas", "--to", tmp_path / "restored.db", **replica).code == 0
    assert backupd("verify", "--all", "--store", "nas", **replica).code == 0
    for command in (("replicate",), ("remove", "tasks-20200101-0400", "--store", "nas", "--force")):
        answer = backupd(*command, **replica)
        assert (answer.code, "is the local store of another backupd" in answer.err) == (78, True), answer
    assert contents(clone) == before
    (clone / ".backupd/identity").unlink()  # as the hint says: no backupd uses it any more
    assert backupd("replicate", **replica).code == 0


def test_disk_of_lost_machine_is_read_and_never_written(
    backupd: Backupd, backups: Path, tmp_path: Path, leading_to: Callable[[Path], dict[str, str]]
) -> None:
    assert backupd("backup").code == 0
    lost = tmp_path / "lost"
    backups.rename(lost)
    before, replica = contents(lost), leading_to(lost)
    assert backupd("restore", "--from", "nas", "--to", tmp_path / "restored.db", **replica).code == 0
    assert backupd("list", "--store", "nas", **replica).code == 0
    answer = backupd("replicate", "--adopt", **replica)
    assert (answer.code, "is the local store of another backupd" in answer.err) == (78, True), answer
    assert contents(lost) == before


def test_copies_sent_by_lost_machine_are_adopted(
    backupd: Backupd, backups: Path, tmp_path: Path, leading_to: Callable[[Path], dict[str, str]]
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    replica = leading_to(there)
    assert backupd("backup").code == 0
    assert backupd("replicate", **replica).code == 0
    shutil.rmtree(backups)
    assert backupd("replicate", "--adopt", **replica).code == 0
    assert not (there / ".backupd/identity").exists()
