"""Conclude the restore of a point: finished where all of it is in place, else undone; by its own process or the next.

A restore that succeeded is concluded in the same way as one that failed or was killed.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backupd.errors import TargetInUse, TargetRefused
from backupd.model import Kind
from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.history import is_part
from backupd.sqlite.swap import FileMark, SwapJournal, forget_undone, recover_swap, remove_part, unswap
from backupd.sqlite.target import Target, lease_all, restore_locks
from backupd.system.directory import Directory
from backupd.system.small_file import UnexpectedFile
from backupd.tasks.context import TaskContext
from backupd.tasks.events import RestoreRecovered
from backupd.tasks.restore.files_left import LeftFiles
from backupd.tasks.restore.part import LeftPart
from backupd.tasks.restore.point_journal import (
    Decision,
    Found,
    PartPlace,
    PointJournal,
    decide,
    read_copy,
    remove_copy,
)


@dataclass(frozen=True, slots=True)
class LeftDatabase:
    """The database at `place`, which `swap` has replaced, or would have."""

    place: DatabasePlace
    swap: SwapJournal
    now: datetime

    @property
    def path(self) -> Path:
        """The database, for messages."""
        return self.place.path

    def found(self) -> Found:
        """Return what is there, once a swap that was killed is finished or undone. Raises TargetRefused, OSError."""
        recover_swap(self.place)
        mark = FileMark.of(self.place, self.place.name)
        if mark is None and self.swap.old is not None:
            return "other" if FileMark.of(self.place, self.swap.kept) is None else "partial"
        if mark is None:
            return "old"
        if mark.inode == self.swap.new.inode:
            return "new"
        return "old" if self.swap.old is not None and mark.inode == self.swap.old.inode else "other"

    def settle(self) -> Target | None:
        """Checkpoint the new database, and return it where an undo replaces it.

        Raises TargetInUse, TargetRefused, NoSpace.
        """
        if self.found() != "new":
            return None
        target = Target.inspect(self.path)
        with target.lease(stopped=True):  # refuses before a checkpoint waits for the locks of an app
            pass
        target.checkpoint()
        return target

    def undo(self) -> str:
        """Put the old database back; return where the new one is kept, if it was written to. Raises OSError."""
        kept = unswap(self.place, self.swap, self.now)
        return f"{self.path} was written to since: that is kept as {kept}" if kept else ""

    def finish(self) -> None:
        """Remove the record of the restore that the swap took back. Raises OSError."""
        forget_undone(self.place, self.swap)

    def discard(self) -> None:
        """Remove the part that was not put in place. Raises OSError."""
        if is_part(self.swap.part, self.place.name):
            remove_part(self.place, self.swap.part)


def recover_point(
    kind: Kind, target: Path, context: TaskContext, *, held: Iterable[Path] = (), stopped: bool = False
) -> None:
    """Finish or undo the restore of a point that was killed and that `target` was a part of, and log it.

    This process has locked the directories `held`, that of `target` among them. Raises TargetRefused, TargetInUse,
    LockHeld, OSError.
    """
    journal = _copy_at(kind, target)
    if journal is None:
        return
    with restore_locks((place.directory for place in journal.places), held=held):
        decision, notes = conclude(journal, context, stopped=stopped)
    if decision != "forgotten":
        what = f"a restore of {journal.point} was killed: {decision} at {_named(journal.places)}"
        context.emit(RestoreRecovered("; ".join((what, *notes)), target))


def conclude(journal: PointJournal, context: TaskContext, *, stopped: bool) -> tuple[Decision, Sequence[str]]:
    """Finish or undo the restore as a whole, and return which of the two, with what is worth telling.

    Only under the locks of all its directories. Nothing is undone while an app has one of the new databases open, and
    `stopped` says that none has where the kernel cannot tell. Raises TargetInUse, TargetRefused, OSError.
    """
    notes: list[str] = []
    with _left(journal, context) as copies:
        parts = [part for _directory, _place, part in copies if part is not None]
        found = {part.path: part.found() for part in parts} if len(parts) == len(copies) else {}
        decision = decide(found.values() if found else [None])
        if decision == "undone":
            notes += _undo([part for part in parts if found[part.path] != "other"], journal, stopped=stopped)
            notes += [f"{path} was replaced since, and stays" for path, state in found.items() if state == "other"]
        elif decision == "finished":
            for part in parts:
                part.finish()
        for part in parts:
            part.discard()
        for directory, place, found_part in copies:
            if found_part is not None:
                remove_copy(directory, place)
    return decision, notes


def _undo(parts: Sequence[LeftPart], journal: PointJournal, *, stopped: bool) -> Iterator[str]:
    """Undo all of `parts`, none before no app has any of them open; yield what is worth telling."""
    try:
        targets = [target for part in parts if (target := part.settle()) is not None]
        with lease_all(targets, stopped=stopped):
            for part in reversed(parts):
                if note := part.undo():
                    yield note
    except TargetInUse as error:
        raise TargetInUse(
            f"a restore of {journal.point} ended between its parts, and has to be undone at "
            f"{_named(journal.places)}: {error.message}"
        ) from error


def _copy_at(kind: Kind, target: Path) -> PointJournal | None:
    """Return the copy beside `target`. Raises TargetRefused, PermissionError."""
    place = PartPlace(kind, str(target), 0)
    try:
        directory = Directory.open(place.directory, links=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with directory:
        journal = read_copy(directory, place)
    if journal is not None and all(other.path != place.path for other in journal.places):
        raise TargetRefused(
            f"a restore of {journal.point} to {_named(journal.places)} was killed; {target} was one of them",
            "run backupd where all of them are mounted at those paths: it finishes or undoes that restore",
        )
    return journal


@contextmanager
def _left(journal: PointJournal, context: TaskContext) -> Iterator[list[tuple[Directory, PartPlace, LeftPart | None]]]:
    """Open all places of a restore for the block; the part is None where the copy is missing. Raises TargetRefused."""
    with ExitStack() as stack:
        copies = []
        for place in journal.places:
            directory = stack.enter_context(_opened(place, journal))
            copy = read_copy(directory, place)
            part = None if copy is None or copy.run != journal.run else _part(directory, place, copy, context)
            copies.append((directory, place, part))
        yield copies


def _part(directory: Directory, place: PartPlace, copy: PointJournal, context: TaskContext) -> LeftPart:
    if copy.swap is None:  # that of a set of files, as its validity says
        return LeftFiles(directory, Path(place.path))
    return LeftDatabase(DatabasePlace(directory, Path(place.path).name), copy.swap, context.clock())


def _opened(place: PartPlace, journal: PointJournal) -> Directory:
    """Open the directory of `place`, which has to be the one of that time. Raises TargetRefused, OSError."""
    try:
        directory = Directory.open(place.directory, links=False)
    except (FileNotFoundError, NotADirectoryError, UnexpectedFile):
        raise _elsewhere(place, journal) from None
    if os.fstat(directory.descriptor).st_ino != place.inode:
        directory.close()
        raise _elsewhere(place, journal)
    return directory


def _elsewhere(place: PartPlace, journal: PointJournal) -> TargetRefused:
    return TargetRefused(
        f"a restore of {journal.point} was killed, and {place.directory}, where {Path(place.path).name} was restored, "
        "is not the directory that it was",
        f"mount the volumes of {_named(journal.places)}; if one of them is gone for good, check the others and what "
        "was kept beside them (….pre-restore-…), and remove the files whose names end with restore-point",
    )


def _named(places: Iterable[PartPlace]) -> str:
    return ", ".join(place.path for place in places)
