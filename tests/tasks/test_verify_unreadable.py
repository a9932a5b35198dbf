"""An archive of the local store that cannot be read: the others are verified all the same."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from backupd.model import ARCHIVE_SUFFIX
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest
from support.backup_runs import NO_CAPABILITIES
from support.command import Backupd
from support.generations import backdated

EIO = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=read,pread64", "-e", "inject=read,pread64:error=EIO")


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("how", "code", "told", "damaged"),
    [(("denied",), 75, "NOT VERIFIED", False), (EIO, 1, "DAMAGED", True)],
    ids=["denied", "I/O error"],
)
def test_unreadable_archive_is_named_and_others_are_verified(
    backupd: Backupd,
    order: BackupRequest,
    context: TaskContext,
    how: Sequence[str],
    code: int,
    told: str,
    damaged: bool,
) -> None:
    newest = backup(order, context).generation
    assert newest is not None
    older = backdated(context.store.directory, newest, days=1)
    archive = context.store.directory / f"{newest}{ARCHIVE_SUFFIX}"
    before: Sequence[str] = (*how, "-P", str(archive))
    if how == ("denied",):
        archive.chmod(0)
        before = NO_CAPABILITIES.command if os.geteuid() == 0 else ()
    line = [*before, sys.executable, "-m", "backupd", "verify", "--all"]
    done = subprocess.run(line, env={**os.environ, **backupd.environ}, capture_output=True, text=True, check=False)
    assert done.returncode == code, done
    assert f"{newest}: {told}" in done.stdout, done
    assert f"{older}: verified" in done.stdout, done
    assert (newest in context.marks.ids()) == damaged
