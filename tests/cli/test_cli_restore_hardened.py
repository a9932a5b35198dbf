"""`backupd restore` in the container of the README: root with few rights, and a directory that is the app's alone."""

from collections.abc import Iterator

import pytest

from support.bank import spend, transfers
from support.hardened import APP, GROUP, Volumes, volumes

pytestmark = pytest.mark.root


@pytest.fixture
def private() -> Iterator[Volumes]:
    """The volumes of an app that lets no other user into its directory."""
    with volumes(mode=0o700) as made:
        yield made


def test_restore_and_undo_in_a_private_directory_work_as_its_owner(private: Volumes) -> None:
    beside = {"BACKUPD_BACKUPS_DIR": str(private.data / "backups")}
    assert private.backupd("backup", **beside).code == 0
    spend(private.database)
    for arguments, found in (([], 0), (["--undo", "--dry-run"], 0), (["--undo"], 1)):
        answer = private.backupd("restore", *arguments, **beside)
        assert (answer.code, transfers(private.database)) == (0, found), answer
    owners = {(state.st_uid, state.st_gid) for path in private.data.rglob("*") if (state := path.stat())}
    assert owners == {(APP, GROUP)}


def test_root_that_stays_root_is_told_which_capability_a_private_directory_takes(private: Volumes) -> None:
    (private.data / ".tasks.db.restore").write_text("{")
    answer = private.backupd("restore", "--undo", PUID="0")
    assert answer.code == 1
    assert "damaged" not in answer.err
    assert "DAC_OVERRIDE" in answer.err
