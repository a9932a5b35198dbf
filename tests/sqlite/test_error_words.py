"""What SQLite refuses, as an operator reads it: the kind of error, where it is and what to do."""

from pathlib import Path

import apsw
import pytest

from backupd.errors import (
    BackupdError,
    NoSpace,
    RestoreFailed,
    SnapshotFailed,
    SourceBusy,
    SourceCorrupt,
    SourceUnreadable,
    SourceUnusable,
    TargetInUse,
    TargetRefused,
)
from backupd.sqlite.worker.connection import source_error, target_error

IN_USE = TargetInUse("it is in use")


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (apsw.SQLITE_BUSY, SourceBusy, "stayed locked for 61 s"),
        (apsw.SQLITE_LOCKED_SHAREDCACHE, SourceBusy, "stayed locked for 61 s"),
        (apsw.SQLITE_NOTADB, SourceUnreadable, "is not a database that SQLite can read"),
        (apsw.SQLITE_CORRUPT_INDEX, SourceCorrupt, "is damaged"),
        (apsw.SQLITE_CANTOPEN, SourceUnusable, "cannot be opened"),
        (apsw.SQLITE_READONLY_RECOVERY, SourceUnusable, "needs recovery"),
        (apsw.SQLITE_FULL, NoSpace, "the file system of the backups became full"),
        (apsw.SQLITE_IOERR_SHMSIZE, NoSpace, "no space for the shared memory file"),
        (apsw.SQLITE_IOERR_READ, SnapshotFailed, f"SQLite code {apsw.SQLITE_IOERR_READ}"),
    ],
)
def test_failure_of_source_has_kind_words_and_hint(
    tmp_path: Path, code: int, kind: type[BackupdError], words: str
) -> None:
    path = str(tmp_path / "tasks.db")
    found = source_error(apsw.exception_for(code), path, 61.0)
    assert type(found) is kind
    assert (path in found.message or kind is NoSpace, words in found.message, bool(found.hint)) == (True, True, True)


def test_step_without_message_is_told_by_name_of_its_code(tmp_path: Path) -> None:
    error = apsw.exception_for(apsw.SQLITE_CORRUPT)
    error.args = ("not an error",)
    assert source_error(error, str(tmp_path / "tasks.db"), 1.0).message.endswith("is damaged: SQLITE_CORRUPT")


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (apsw.SQLITE_BUSY_RECOVERY, TargetInUse, "it is in use"),
        (apsw.SQLITE_LOCKED, TargetInUse, "it is in use"),
        (apsw.SQLITE_FULL, NoSpace, "no space there"),
        (apsw.SQLITE_READONLY_DIRECTORY, TargetRefused, "cannot be written as uid"),
        (apsw.SQLITE_CANTOPEN, TargetRefused, "cannot be written as uid"),
        (apsw.SQLITE_PERM, TargetRefused, "cannot be written as uid"),
        (apsw.SQLITE_IOERR_WRITE, RestoreFailed, "cannot be checkpointed"),
    ],
)
def test_failure_of_target_has_kind_words_and_hint(code: int, kind: type[BackupdError], words: str) -> None:
    error = apsw.exception_for(code)
    found = target_error(error, "/app/tasks.db", IN_USE, "no space there", "cannot be checkpointed")
    assert (type(found), words in found.message, bool(found.hint)) == (kind, True, True)
