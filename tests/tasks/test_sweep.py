"""Contents of files that no list names any more are swept: not too early, not in doubt, and after a kill too."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.model import Hold
from backupd.retention import RetentionPolicy
from backupd.stores.contents import LocalContents
from backupd.tasks.clean import clean
from backupd.tasks.context import read_inventory
from backupd.tasks.prune import prune
from backupd.tasks.remove import remove_local
from backupd.tasks.requests import RetentionRule
from backupd.tasks.sweep import sweep
from support.file_sets import FileSet
from support.generations import dated_back

LAST = RetentionRule(RetentionPolicy(last=1, within=timedelta(), daily=0, weekly=0))


@pytest.fixture
def files(tmp_path: Path) -> FileSet:
    """A set of files whose older generation has a content of its own, and whose contents are all two days old."""
    made = FileSet(tmp_path)
    made.write("both", "in both generations")
    made.write("gone", "in the older one")
    older = made.back_up(retention=None).generation
    assert older
    dated_back(tmp_path / "backups", older, days=3)
    (made.path / "gone").unlink()
    made.write("new", "in the newer one")
    made.forget_index()
    assert made.back_up(retention=None, guard=made.request.guard).outcome == "published"
    age(made)
    return made


def age(files: FileSet, hours: float = 48) -> None:
    """Let all contents be that old."""
    then = time.time() - hours * 3600
    for path in (files.root / "backups" / "files").glob("*/*"):
        os.utime(path, (then, then))


def held_by(files: FileSet) -> set[bytes]:
    """Return the contents of all that is restored from the generations that are left."""
    found = set[bytes]()
    for stored in files.context.store.list():
        found |= set(files.restored(stored.id).values())
    return found


def prune_files(files: FileSet) -> tuple[str, ...]:
    report, _ = prune("uploads", LAST, files.context)
    assert report.outcome in {"done", "degraded"}, report
    return report.warnings


def test_contents_of_removed_generation_alone_are_swept(files: FileSet) -> None:
    assert len(files.stored()) == 3
    assert prune_files(files) == ()
    assert len(files.stored()) == 2
    assert held_by(files) == {b"in both generations", b"in the newer one"}
    assert not files.context.sweeps.due("local")


def test_young_contents_stay_until_a_prune_finds_them_old(files: FileSet) -> None:
    age(files, hours=23)
    assert prune_files(files) == ()
    assert len(files.stored()) == 3
    age(files)
    prune_files(files)
    assert len(files.stored()) == 2
    assert not files.context.sweeps.due("local")


def test_nothing_is_swept_while_a_set_of_files_is_on_hold(files: FileSet) -> None:
    (older, _newer) = [stored.id for stored in files.context.store.list()]
    files.context.holds.set(Hold("uploads", "shrink", files.context.clock(), "many are gone", None))
    remove_local([older], files.context, force=True)
    assert len(files.stored()) == 3
    assert files.context.sweeps.due("local")
    files.context.holds.release("uploads")
    prune_files(files)
    assert len(files.stored()) == 2


@pytest.mark.parametrize("damage", ["truncated", "another list", "manifest", "gone"])
def test_nothing_is_swept_where_a_list_cannot_be_read_and_that_is_said(files: FileSet, damage: str) -> None:
    backups = files.root / "backups"
    (older, newer) = [stored.id for stored in files.context.store.list()]
    files.context.sweeps.add("local")
    archive, manifest = backups / f"{older}.files.gz", backups / f"{older}.manifest.json"
    if damage == "truncated":
        os.truncate(archive, archive.stat().st_size - 20)
    elif damage == "another list":
        archive.write_bytes((backups / f"{newer}.files.gz").read_bytes())
    elif damage == "manifest":
        manifest.write_bytes(manifest.read_bytes()[:-5])
    else:
        archive.unlink()
    files.context.marks.add(older, "damaged")
    warnings = prune_files(files)
    assert any("no contents of files were removed" in warning and older in warning for warning in warnings), warnings
    assert len(files.stored()) == 3
    assert files.context.sweeps.due("local")
    remove_local([older], files.context, force=True)
    assert len(files.stored()) == 2


def test_sweep_that_is_cut_short_is_done_by_the_next_prune(files: FileSet, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(LocalContents, "remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prune("uploads", LAST, files.context)
    assert len(files.context.store.list()) == 1
    assert len(files.stored()) == 3
    assert prune_files(files) == ()
    assert len(files.stored()) == 2


def test_full_disk_does_not_hide_what_could_not_be_removed(files: FileSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error", "somewhere")

    monkeypatch.setattr(LocalContents, "remove", fail)
    (warning,) = prune_files(files)
    assert "contents of files that no generation needs could not be removed" in warning
    assert files.context.sweeps.due("local")


def test_store_without_files_keeps_no_note_of_sweeps(files: FileSet) -> None:
    remove_local([stored.id for stored in files.context.store.list()], files.context, force=True)
    assert files.stored() == set()
    assert not list((files.root / "backups" / ".backupd" / "sweeps").iterdir())


def test_content_that_comes_back_after_a_sweep_is_stored_again(files: FileSet) -> None:
    prune_files(files)
    files.write("again", "in the older one")
    report = files.back_up()
    assert report.generation
    assert files.restored(report.generation) == files.on_disk()


def test_sweep_removes_nothing_that_a_list_names(files: FileSet) -> None:
    swept = sweep(files.context.store, read_inventory(files.context))
    assert swept.contents == 0
    assert len(files.stored()) == 3


def killed_backup(files: FileSet) -> None:
    """Leave contents in the store whose list was never published."""
    files.write("never listed", "of a backup that was killed")
    generation = files.back_up(retention=None).generation
    assert generation
    for suffix in (".files.gz", ".manifest.json"):
        (files.root / "backups" / f"{generation}{suffix}").unlink()


def clean_contents(files: FileSet, *, dry_run: bool = False) -> list[tuple[bool, str]]:
    decisions = clean({}, timedelta(days=30), files.context, files={"uploads": files.path}, dry_run=dry_run)
    return [(one.removed, one.reason) for one in decisions if one.leftover.kind == "contents of files"]


def test_clean_sweeps_contents_of_a_killed_backup_that_no_prune_knows_of(files: FileSet) -> None:
    killed_backup(files)
    age(files)
    before = held_by(files)
    assert prune("uploads", RetentionRule(RetentionPolicy(last=2)), files.context)[0].warnings == ()
    assert len(files.stored()) == 4
    expected = [(True, "no generation needs 1 content")]
    assert clean_contents(files, dry_run=True) == expected
    assert len(files.stored()) == 4
    assert not files.context.sweeps.due("local")
    assert clean_contents(files) == expected
    assert len(files.stored()) == 3
    assert held_by(files) == before
    assert clean_contents(files) == []
    assert not files.context.sweeps.due("local")


def test_clean_leaves_young_contents_to_the_next_prune_and_held_ones_to_the_end_of_the_hold(files: FileSet) -> None:
    killed_backup(files)
    age(files, hours=23)
    assert clean_contents(files) == [(False, "younger than 24 h")]
    age(files)
    files.context.holds.set(Hold("uploads", "shrink", files.context.clock(), "many are gone", None))
    assert clean_contents(files) == [(False, "pruning of uploads is on hold")]
    assert len(files.stored()) == 4
    files.context.holds.release("uploads")
    prune("uploads", RetentionRule(RetentionPolicy(last=2)), files.context)
    assert len(files.stored()) == 3, "it was noted as due"


def test_clean_sweeps_nothing_where_a_list_cannot_be_read_and_says_so(files: FileSet) -> None:
    killed_backup(files)
    age(files)
    (older, _newer) = [stored.id for stored in files.context.store.list()]
    archive = files.root / "backups" / f"{older}.files.gz"
    os.truncate(archive, archive.stat().st_size - 20)
    ((removed, reason),) = clean_contents(files)
    assert not removed
    assert older in reason
    assert len(files.stored()) == 4
