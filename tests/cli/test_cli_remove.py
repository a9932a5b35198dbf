"""`backupd remove`: whole generations, never by accident, here and at replicas."""

from pathlib import Path

import pytest
from keyboard import Keyboard

from backupd.model import ARCHIVE_SUFFIX, Hold
from backupd.tasks.context import TaskContext
from backupd.tasks.prune import pin_generation
from backupd.tasks.requests import PinRequest
from support.command import log_lines
from support.generations import backdated, flip_byte
from support.replicas import assert_checksums


@pytest.fixture
def older(backups: Path, generation: str) -> str:
    """A second generation, of three days before."""
    return backdated(backups, generation, days=3)


def present(directory: Path) -> set[str]:
    """Return what the files of generations are called, without their ends."""
    return {path.name.split(".")[0] for path in directory.glob("tasks-*")}


def test_removed_generation_leaves_no_file_checksum_catalog_row_or_pin(
    typed: Keyboard, backups: Path, generation: str, older: str, context: TaskContext
) -> None:
    typed("prune")
    pin_generation(older, PinRequest("made by hand"), context)
    answer = typed("remove", older, "--force", "--json")
    assert (answer.code, answer.json) == (0, [{"id": older, "store": "local", "still_in": []}])
    assert present(backups) == {generation}
    assert_checksums(backups)
    assert context.copies().keys() == {generation}
    assert context.pins.all() == {}
    removed = [line for line in log_lines(backups) if line["event.action"] == "generation.removed"]
    assert [line["backupd.reason"] for line in removed] == ["removed by an operator"]


def test_pinned_held_or_last_verified_generation_is_removed_only_by_force(
    typed: Keyboard, backups: Path, generation: str, older: str, context: TaskContext
) -> None:
    both = {generation, older}
    answer = typed("remove", older, generation)
    assert (answer.code, "no verified generation of tasks would be left" in answer.err) == (1, True)
    pin_generation(older, PinRequest("made by hand"), context)
    answer = typed("remove", older)
    assert (answer.code, f"{older} is pinned: made by hand" in answer.err) == (1, True)
    assert f"backupd unpin {older}" in answer.err
    context.pins.release(older)
    context.holds.set(Hold("tasks", "shrink", context.clock(), "it shrank", None))
    answer = typed("remove", older)
    assert (answer.code, "on hold: it shrank" in answer.err) == (1, True)
    assert present(backups) == both
    assert typed("remove", *both, "--force").code == 0
    assert present(backups) == set()


def test_remove_of_several_ids_with_one_unknown_removes_none(
    typed: Keyboard, backups: Path, generation: str, older: str
) -> None:
    answer = typed("remove", older, "tasks-20200101-0400", "--force")
    assert (answer.code, "tasks-20200101-0400" in answer.err) == (1, True)
    assert present(backups) == {generation, older}


def test_generation_with_refused_manifest_or_missing_archive_can_be_removed(
    typed: Keyboard, backups: Path, generation: str, older: str
) -> None:
    gone = backdated(backups, generation, days=5)
    (backups / f"{gone}{ARCHIVE_SUFFIX}").unlink()
    flip_byte(backups / f"{older}.manifest.json")
    assert typed("remove", older, gone).code == 0
    assert present(backups) == {generation}
    assert typed("list").err == ""


def test_remove_at_replica_removes_only_that_copy_and_append_only_replica_refuses(
    typed: Keyboard, backups: Path, tmp_path: Path, generation: str, older: str
) -> None:
    nas = tmp_path / "nas"
    replica = {"BACKUPD_REPLICAS__NAS__URL": f"file:{nas}"}
    assert typed("replicate", **replica).code == 0
    append_only = {**replica, "BACKUPD_REPLICAS__NAS__APPEND_ONLY": "true"}
    answer = typed("remove", older, "--store", "nas", "--force", **append_only)
    assert (answer.code, "append_only" in answer.err) == (1, True)
    assert typed("remove", generation, older, "--store", "nas", **replica).code == 1
    answer = typed("remove", older, "--store", "nas", **replica)
    assert (answer.code, "still in local; the next replication may send it again" in answer.err) == (0, True)
    assert (present(nas), present(backups)) == ({generation}, {generation, older})
    assert_checksums(nas)


def test_pin_is_kept_after_removal_with_copy_elsewhere_or_without_catalog(
    typed: Keyboard, backups: Path, tmp_path: Path, generation: str, older: str, context: TaskContext
) -> None:
    replica = {"BACKUPD_REPLICAS__NAS__URL": f"file:{tmp_path / 'nas'}"}
    assert typed("replicate", **replica).code == 0
    pin_generation(older, PinRequest("made by hand"), context)
    assert "still in nas" in typed("remove", older, "--force", **replica).err
    assert older in context.pins.all()
    assert typed("remove", older, "--store", "nas", "--force", **replica).code == 0
    assert older not in context.pins.all()
    lost = backdated(backups, generation, days=4)
    pin_generation(lost, PinRequest("made by hand"), context)
    for catalog in (backups / ".backupd").glob("catalog*"):
        catalog.unlink()
    assert typed("remove", lost, "--force").code == 0
    assert lost in context.pins.all()
