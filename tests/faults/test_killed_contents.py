"""Contents, restore points and sweeps, killed before each change, or refused it by the disk: nothing needed is lost."""

import errno
import hashlib
import os
import shutil
import time
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
from forks import hit

from backupd.retention import RetentionPolicy
from backupd.stores.directory_replica import DirectoryReplica
from backupd.stores.local import DirectoryStore
from backupd.tasks.context import read_inventory
from backupd.tasks.prune import prune
from backupd.tasks.requests import RetentionRule, ShrinkGuard
from support.file_sets import FileSet
from support.generations import dated_back
from support.points import publish_point

LAST = RetentionRule(RetentionPolicy(last=1, within=timedelta(), daily=0, weekly=0))
REMOVALS = frozenset({"rename", "unlink"})
CONTENTS = (b"new", b"there already", b"damaged there")
POINT = "point-20261121-0400"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def add(store: DirectoryStore) -> None:
    with store.staging() as staging, store.contents.adding(staging) as writer:
        for data in CONTENTS:
            if not writer.holds(hashlib.sha256(data).digest()):
                with writer.part() as part:
                    part.write(data)
                    part.finish(hashlib.sha256(data).digest(), packed=False)


def send(store: DirectoryStore) -> None:
    replica = DirectoryReplica("nas", store.directory.with_name("nas"))
    replica.prepare()
    replica.contents.publish([digest(data) for data in CONTENTS], store.contents)


def assert_sound(store: DirectoryStore) -> None:
    """Require that each content is complete, under the name of what it holds."""
    for path in (store.directory / "files").glob("*/*"):
        assert path.name == digest(path.read_bytes()) or path.read_bytes() == b"damaged"


@pytest.fixture
def template(tmp_path: Path) -> DirectoryStore:
    """A store that has one of the contents, and one that is damaged."""
    store = DirectoryStore("local", tmp_path / "template")
    store.prepare()
    for data, stored in zip(CONTENTS[1:], (CONTENTS[1], b"damaged"), strict=True):
        path = store.directory / "files" / digest(data)[:2] / digest(data)
        path.parent.mkdir(parents=True)
        path.write_bytes(stored)
    return store


def copied(template: DirectoryStore) -> DirectoryStore:
    """Return a fresh copy of a store, which takes the place of the last one."""
    directory = template.directory.with_name("backups")
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(template.directory, directory)
    return DirectoryStore("local", directory)


@pytest.mark.parametrize("error", [0, errno.ENOSPC, errno.EIO], ids=["killed", "full", "failing"])
def test_adding_of_contents_at_any_step_leaves_whole_ones_and_next_run_adds_the_rest(
    template: DirectoryStore, error: int
) -> None:
    for at in count(1):
        store = copied(template)
        again = hit(lambda store=store: add(store), at, error)
        assert_sound(store)
        list(store.recover())
        assert list((store.hidden / "staging").iterdir()) == []
        add(store)
        for data in CONTENTS:
            store.contents.require_sound(digest(data))
        if not again:
            break
    assert at > 10


@pytest.mark.parametrize("error", [0, errno.ENOSPC], ids=["killed", "full"])
def test_sending_of_contents_at_any_step_leaves_whole_ones_and_next_run_sends_the_rest(
    template: DirectoryStore, tmp_path: Path, error: int
) -> None:
    store = copied(template)
    add(store)
    for at in count(1):
        shutil.rmtree(tmp_path / "nas", ignore_errors=True)
        again = hit(lambda: send(store), at, error)
        replica = DirectoryReplica("nas", tmp_path / "nas")
        for raw in replica.contents.sizes():
            replica.contents.require_sound(raw.hex())
        send(store)
        assert len(replica.contents.sizes()) == 3
        if not again:
            break
    assert at > 10


@pytest.mark.parametrize("error", [0, errno.ENOSPC, errno.EIO], ids=["killed", "full", "failing"])
def test_point_is_published_or_removed_whole_at_any_step(template: DirectoryStore, error: int) -> None:
    encoded = b"index " * 1000
    for at in count(1):
        store = copied(template)
        again = hit(lambda store=store: store.publish_point(POINT, encoded), at, error)
        assert [store.point(key) for key in store.points()] in ([], [encoded])
        list(store.recover())
        assert list((store.hidden / "staging").iterdir()) == []
        store.publish_point(POINT, encoded)
        gone = hit(lambda store=store: store.remove_point(POINT), at, error)
        assert [store.point(key) for key in store.points()] in ([], [encoded])
        store.remove_point(POINT)
        assert store.points() == ()
        if not again and not gone:
            break
    assert at > 4


@pytest.fixture
def files(tmp_path: Path) -> FileSet:
    """Two generations of files, each part of a restore point, and contents that only the older one needs."""
    made = FileSet(tmp_path / "made")
    backups = made.root / "backups"
    made.write("both", "in both generations")
    for number in range(3):
        made.write(f"gone {number}", f"in the older one {number}")
    older = made.back_up(retention=None).generation
    assert older
    older = dated_back(backups, older, days=3)
    for number in range(3):
        (made.path / f"gone {number}").unlink()
    made.write("new", "in the newer one")
    newer = made.back_up(retention=None, guard=ShrinkGuard(enabled=False)).generation
    assert newer
    for key in (older, newer):
        publish_point(backups, [key])
    for path in (backups / "files").glob("*/*"):
        os.utime(path, (time.time() - 200_000,) * 2)
    return made


@pytest.mark.parametrize("error", [0, errno.EIO], ids=["killed", "failing"])
def test_prune_and_sweep_at_any_step_keep_whole_points_and_next_prune_ends_them(
    files: FileSet, tmp_path: Path, error: int
) -> None:
    for at in count(1):
        copy = FileSet.__new__(FileSet)
        copy.root = tmp_path / "copy"
        shutil.rmtree(copy.root, ignore_errors=True)
        shutil.copytree(files.root, copy.root)
        copy.set_up()
        again = hit(lambda copy=copy: prune("uploads", LAST, copy.context), at, error, REMOVALS)
        inventory = read_inventory(copy.context)
        for point in inventory.points.values():
            assert point.generations <= inventory.manifests.keys(), f"before change {at}"
        for key in inventory.manifests:
            assert copy.restored(key), f"before change {at}"
        assert len(inventory.points) in {1, 2}
        report, _ = prune("uploads", LAST, copy.context)
        assert report.outcome in {"done", "degraded"}, report
        assert len(copy.context.store.list()) == len(copy.context.store.points()) == 1, f"before change {at}"
        assert len(copy.stored()) == 2, f"swept after a fault before change {at}"
        assert not copy.context.sweeps.due("local")
        if not again:
            break
    assert at > 8
