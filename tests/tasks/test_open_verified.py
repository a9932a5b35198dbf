"""The archive that a client downloads: of a verified generation alone, held open."""

import os
from collections.abc import Callable
from hashlib import sha256

import pytest

from backupd.errors import BackupdError, CopyCorrupt, GenerationMissing, ManifestInvalid
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest
from backupd.tasks.verify import open_verified


@pytest.fixture
def generation(order: BackupRequest, context: TaskContext) -> str:
    made = backup(order, context).generation
    assert made is not None
    return made


def test_archive_is_read_to_its_end_though_its_generation_is_removed(context: TaskContext, generation: str) -> None:
    manifest, stream = open_verified(generation, context)
    with stream:
        context.store.remove(generation)
        assert sha256(stream.read()).hexdigest() == manifest.archive.sha256
    with pytest.raises(GenerationMissing):
        open_verified(generation, context)


def mark_damaged(context: TaskContext, generation: str) -> None:
    context.marks.add(generation, "a check found it")


def truncate(context: TaskContext, generation: str) -> None:
    os.truncate(context.store.archive_path(generation), 100)


def replace_by_link(context: TaskContext, generation: str) -> None:
    path = context.store.archive_path(generation)
    path.unlink()
    path.symlink_to("/etc/passwd")


def replace_by_pipe(context: TaskContext, generation: str) -> None:
    path = context.store.archive_path(generation)
    path.unlink()
    os.mkfifo(path)


def break_manifest(context: TaskContext, generation: str) -> None:
    (context.store.directory / f"{generation}.manifest.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (mark_damaged, CopyCorrupt),
        (truncate, CopyCorrupt),
        (replace_by_link, GenerationMissing),
        (replace_by_pipe, GenerationMissing),
        (break_manifest, ManifestInvalid),
    ],
)
def test_other_archive_is_not_opened(
    context: TaskContext, generation: str, change: Callable[[TaskContext, str], None], kind: type[BackupdError]
) -> None:
    change(context, generation)
    with pytest.raises(kind):
        open_verified(generation, context)


@pytest.mark.parametrize("name", ["tasks-20200101-0000", "../passwd", "", "tasks-20200101-0000\0"])
def test_unknown_generation_is_missing(context: TaskContext, name: str) -> None:
    with pytest.raises(GenerationMissing):
        open_verified(name, context)
