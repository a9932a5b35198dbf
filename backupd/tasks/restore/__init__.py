"""Restore a generation: as a new file, in place of the database, or into a live one; and take a restore back."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from backupd.model import Verification
from backupd.report import RestoreDetails, RunReport
from backupd.sqlite.history import Kind, PointRestore, RecordedRestore
from backupd.sqlite.permissions import Permissions

RESTORED_FROM = "it was restored from"


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """The database of `source` at `path` is to be replaced."""

    source: str
    path: Path
    workers: int  # threads that unpack
    stopped: bool = False  # the operator confirms that the app is stopped
    dry_run: bool = False
    directory: Permissions | None = None  # what the empty directory of the database is given, or in a dry run would be
    if_missing: bool = False  # an existing database stays, and a restore that is running there is waited for
    empty_is_data: bool = False  # an empty file is a database
    takes_back: RecordedRestore | None = None  # the restore that this one undoes
    warnings: tuple[str, ...] = ()  # each degrades the restore: what an operator has accepted
    together: PointRestore | None = None  # the restore of a point that this one is a part of
    below: Path | None = None  # the directory of the app below which missing ones are made

    @property
    def kind(self) -> Kind:
        """Whether this is a restore, takes a restore back, or takes an undo back."""
        if self.takes_back is None:
            return "restore"
        return "redo" if self.takes_back.record.kind == "undo" else "undo"

    @property
    def undo_command(self) -> str:
        """The command that takes this restore back."""
        command = f"backupd restore --{'redo' if self.kind == 'undo' else 'undo'}"
        return command if self.together else f"{command} --source {self.source}"

    def subject(self, generation: str | None) -> str | None:
        """Return the generation that is recorded: that of the restore that is taken back, else the restored one."""
        return self.takes_back.record.generation if self.takes_back else generation


@dataclass(frozen=True, slots=True)
class Undone:
    """The restore (or undo, or redo) that an undo takes back."""

    kind: Kind
    generation: str | None  # that it had restored
    restored_at: datetime
    puts_back: str  # the path of the database that it kept, or the generation that was backed up before it

    @classmethod
    def of(cls, entry: RecordedRestore) -> Self:
        """Return the facts of `entry`."""
        record = entry.record
        return cls(record.kind, record.generation, entry.restored_at, record.safety or str(entry.path))


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore did, or with `dry_run` would do."""

    source: str
    generation: str | None  # None where an undo puts back a database that was kept as a file
    taken_at: datetime | None
    target: str
    snapshot_bytes: int
    snapshot_sha256: str | None
    owner: str | None  # `uid:gid`; None where the file belongs to the user of this process
    mode: str  # octal
    dry_run: bool
    level: Verification | None = None  # how far the generation was verified
    kept: str | None = None  # path of the old database; None where there was none, or it was overwritten
    old_damage: str = ""  # how the old database is damaged
    old_undecided: str = ""  # why the old database was kept with its journal
    undo: str | None = None  # the command that takes the restore back
    directory: str | None = None  # owner that an empty directory was given
    notes: tuple[str, ...] = ()  # what the file system cannot do
    takes_back: Undone | None = None


Restored = tuple[RunReport[RestoreDetails], RestoreResult | None]  # no result after an error
