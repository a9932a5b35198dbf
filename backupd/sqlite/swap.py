"""Replace a database by a verified file: killed at any instruction, it is entirely the old or the new one.

The old database is kept beside it, with its side files. A journal is written first, from which a killed swap is
finished or undone. The swap is one rename under a lease, which detects a process that opens the old file at that
moment: then the swap is undone before the process gets the file. The new file is open all the while: another one that
is put in its place is never taken for it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Self, cast

from pydantic import TypeAdapter

from backupd.errors import RestoreFailed, TargetInUse, TargetRefused
from backupd.sqlite.database_files import SIDE_SUFFIXES, DatabasePlace
from backupd.sqlite.history import (
    KEPT,
    RecordedRestore,
    RestoreRecord,
    is_kept,
    is_part,
    is_part_file,
    new_kept_name,
    read_record,
    record_name,
    swap_journal_name,
    write_record,
)
from backupd.sqlite.target import FileLease
from backupd.system.held_file import HeldFile
from backupd.system.signals import defer_signals

Suffix = Literal["-wal", "-shm", "-journal"]


@dataclass(frozen=True, slots=True)
class FileMark:
    """What identifies a file, and shows whether it was written to since."""

    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, place: DatabasePlace, name: str) -> Self | None:
        """Return the mark of the file `name` beside a database, None when there is none."""
        state = place.directory.stat(name)
        return None if state is None else cls(state.st_ino, state.st_size, state.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class SwapJournal:
    """The file `part` becomes the database `target`, and the old one, if there is one, `kept`: names in one directory.

    The side files `aside` are kept with the old database, those of `bring` come with `part`. `takes_back` is the
    restore that this one undoes, by the name under which it kept its old database.
    """

    target: str
    part: str
    new: FileMark
    kept: str
    old: FileMark | None
    aside: tuple[Suffix, ...]
    bring: tuple[Suffix, ...]
    takes_back: str | None = None

    def is_valid(self, target: str) -> bool:
        """Return whether all names are ones that backupd makes: other users may be able to write to the directory."""
        known_part = is_part(self.part, target) or is_kept(self.part, target)
        known_undo = self.takes_back is None or is_kept(self.takes_back, target)
        return self.target == target and known_part and known_undo and is_kept(self.kept, target)


_JOURNAL = TypeAdapter(SwapJournal)


@contextmanager
def journal_written(place: DatabasePlace, journal: SwapJournal) -> Iterator[None]:
    """Keep `journal` on disk during the block; it remains there when the block fails. Raises OSError."""
    write_record(place, swap_journal_name(place.name), journal)
    yield
    _remove_journal(place)


def pending_swap(place: DatabasePlace) -> SwapJournal | None:
    """Return the journal of a swap that was killed. Raises TargetRefused if it is damaged, PermissionError."""
    name = swap_journal_name(place.name)
    damaged = TargetRefused(
        f"{place.path_of(name)} is damaged: cannot determine how far a killed restore went",
        f"check {place.path} and the files named {place.name}{KEPT}…, correct what is wrong, and remove it",
    )
    return read_record(place.directory, name, _JOURNAL, lambda journal: journal.is_valid(place.name), damaged)


def _remove_journal(place: DatabasePlace) -> None:
    """Remove the journal, durably, when its swap is finished or undone. Raises OSError."""
    place.directory.fsync()
    place.directory.unlink(swap_journal_name(place.name))
    place.directory.fsync()


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was done about a restore that was killed, and the details for the log."""

    what: Literal["finished", "undone", "left"]
    detail: str


def plan_swap(
    place: DatabasePlace, new: HeldFile, now: datetime, takes_back: RecordedRestore | None = None
) -> SwapJournal:
    """Return the swap that makes `new`, a durable file in that directory, the database, where nothing changes from now.

    The side files of the old database are kept with it, those of `new` come with the new one. The record of the restore
    that it `takes_back` is removed. Raises TargetRefused, OSError.
    """
    state = os.fstat(new.descriptor)
    return SwapJournal(
        target=place.name,
        part=new.name,
        new=FileMark(state.st_ino, state.st_size, state.st_mtime_ns),
        kept=new_kept_name(place, now),
        old=FileMark.of(place, place.name),
        aside=_existing_suffixes(place, place.name),
        bring=_existing_suffixes(place, new.name),
        takes_back=takes_back.path.name if takes_back else None,
    )


def swap(
    place: DatabasePlace, new: HeldFile, lease: FileLease, journal: SwapJournal, record: RestoreRecord | None = None
) -> Path | None:
    """Rename `new` to the database, as `journal` plans it; returns the path of the kept old database.

    `lease` is held on the old one. `record` describes this restore for a later undo.

    Raises TargetInUse, with everything unchanged, when a process opened the old one during the swap; RestoreFailed
    when another file was put in the place of the new one; OSError. SIGTERM is deferred to the end.
    """
    new.require_in_place()
    if FileMark.of(place, place.name) != journal.old:  # such as a database that an app has created since
        raise TargetInUse(f"{place.path} was written to during the restore: nothing was changed")
    with defer_signals(), journal_written(place, journal):
        try:
            if record is not None:
                with suppress(OSError):  # no inode is left: an undo works without it
                    write_record(place, record_name(journal.kept), record)
            _rename(place, new, lease, journal)
        except BaseException:  # also a failing disk: undo now rather than in the next run
            _undo(place, journal)
            _remove_journal(place)
            raise
        _bring(place, journal)
        forget_undone(place, journal)
    return place.path_of(journal.kept) if journal.old is not None else None


def unswap(place: DatabasePlace, journal: SwapJournal, now: datetime) -> Path | None:
    """Undo a swap that was completed; every step may be repeated after a kill.

    A new database that was written to since is kept, and its path returned; its WAL has to be in its file. Call it
    under a lease on that one. Raises OSError.
    """
    if _is_new(place, place.name, journal):
        for suffix in _existing_suffixes(place, place.name):
            _move(place, f"{place.name}{suffix}", f"{journal.part}{suffix}")
    _undo(place, journal)
    if not is_part(journal.part, place.name) or FileMark.of(place, journal.part) in (None, journal.new):
        return None
    kept = new_kept_name(place, now)
    for suffix in _existing_suffixes(place, journal.part):
        _move(place, f"{journal.part}{suffix}", f"{kept}{suffix}")
    _move(place, journal.part, kept)
    place.directory.fsync()
    return place.path_of(kept)


def recover_swap(place: DatabasePlace) -> Recovery | None:
    """Finish or undo a swap that was killed; None when there is none. Raises TargetRefused, OSError."""
    journal = pending_swap(place)
    if journal is None:
        return None
    now, kept = FileMark.of(place, place.name), place.path_of(journal.kept)
    if _is_new(place, place.name, journal):
        recovery = Recovery("finished", f"the old database is {kept}" if journal.old else "")
        if now == journal.new:
            _bring(place, journal)
        forget_undone(place, journal)
    elif now is None or (journal.old is not None and now.inode == journal.old.inode):
        _undo(place, journal)
        recovery = Recovery("undone", f"{place.path} is unchanged")
    else:
        recovery = Recovery("left", f"{place.path} was replaced by another file since; the old database may be {kept}")
    if is_part(journal.part, place.name):
        remove_part(place, journal.part)
    _remove_journal(place)
    return recovery


def sweep_parts(place: DatabasePlace) -> None:
    """Remove the part files of killed restores, and their side files. Raises OSError."""
    for name in place.names():
        if is_part_file(name, place.name):
            _remove(place, name)


def remove_part(place: DatabasePlace, name: str) -> None:
    """Remove a part file and its side files. Raises OSError."""
    for suffix in ("", *SIDE_SUFFIXES):
        _remove(place, f"{name}{suffix}")


def _remove(place: DatabasePlace, name: str) -> None:
    """Remove a file, if it exists; a directory is left alone."""
    with suppress(IsADirectoryError):
        place.directory.unlink(name)


def _existing_suffixes(place: DatabasePlace, name: str) -> tuple[Suffix, ...]:
    """Return the suffixes of the side files that exist beside the file `name`."""
    return tuple(cast("Suffix", suffix) for suffix in SIDE_SUFFIXES if place.directory.stat(f"{name}{suffix}"))


def _rename(place: DatabasePlace, new: HeldFile, lease: FileLease, journal: SwapJournal) -> None:
    """Set the old database aside and rename. Raises TargetInUse when a process opens it during that, RestoreFailed."""
    _set_aside(place, journal)
    is_linked = journal.old is None or _linked(place, journal.kept)
    new.require_in_place()
    if not lease.open_requested(place.path):
        if is_linked:
            place.directory.rename(journal.part, place.directory, place.name)
        else:
            _exchange(place, journal)
    if lease.open_requested(place.path):
        raise TargetInUse(f"{place.path} was opened during the swap: nothing was changed")
    if not place.directory.holds(place.name, new.descriptor):
        kept = f"; the old database is {place.path_of(journal.kept)}" if journal.old else ""
        raise RestoreFailed(
            f"another process put its own file in place of the restored {place.path}{kept}",
            f"stop what writes to {place.directory.path}, check the files there, and run the same command again",
        )


def _set_aside(place: DatabasePlace, journal: SwapJournal) -> None:
    """Rename the side files as the old database will be, so that SQLite never finds them beside the new one."""
    for suffix in journal.aside:
        with suppress(FileNotFoundError):
            _move(place, f"{place.name}{suffix}", f"{journal.kept}{suffix}")
    place.directory.fsync()


def _linked(place: DatabasePlace, kept: str) -> bool:
    """Link the old database to its new name, durably; False on a file system without hard links (FAT, SMB)."""
    try:
        place.directory.link(place.name, kept)
    except OSError:
        return False
    place.directory.fsync()
    return True


def _exchange(place: DatabasePlace, journal: SwapJournal) -> None:
    """Give the new file the name for the old one, then exchange the two names: the database always exists.

    On a file system without that operation, it is missing for a moment.
    """
    _move(place, journal.part, journal.kept)
    place.directory.fsync()
    if not place.directory.exchange(journal.kept, place.name):
        _move(place, journal.kept, journal.part)
        _move(place, place.name, journal.kept)
        place.directory.fsync()
        _move(place, journal.part, place.name)


def _bring(place: DatabasePlace, journal: SwapJournal) -> None:
    for suffix in journal.bring:
        with suppress(FileNotFoundError):
            _move(place, f"{journal.part}{suffix}", f"{place.name}{suffix}")


def forget_undone(place: DatabasePlace, journal: SwapJournal) -> None:
    """Remove the record of the restore that the swap took back. Raises OSError."""
    if journal.takes_back is not None:
        place.directory.unlink(record_name(journal.takes_back))


def _undo(place: DatabasePlace, journal: SwapJournal) -> None:
    """Undo the swap; every step may be repeated after a kill."""
    place.directory.unlink(record_name(journal.kept))
    if _is_new(place, place.name, journal):
        _rename_new_back(place, journal)
    mark = FileMark.of(place, place.name)
    if _is_new(place, journal.kept, journal):  # killed before the exchange
        _move(place, journal.kept, journal.part)
    if mark is None:
        with suppress(FileNotFoundError):
            _move(place, journal.kept, place.name)
    elif FileMark.of(place, journal.kept) == mark:  # the second link to the old database
        place.directory.unlink(journal.kept)
    if FileMark.of(place, place.name) == journal.old:  # unchanged since: its side files still belong to it
        _put_back(place, journal)


def _is_new(place: DatabasePlace, name: str, journal: SwapJournal) -> bool:
    """Return whether `name` is the new file, perhaps written to since."""
    mark = FileMark.of(place, name)
    return mark is not None and mark.inode == journal.new.inode


def _rename_new_back(place: DatabasePlace, journal: SwapJournal) -> None:
    """Rename the new file back to its part (or to `kept`); it is replaced in one step where the old one is kept."""
    if place.directory.stat(journal.kept):
        with suppress(OSError):  # no hard links, or linked before a kill
            place.directory.link(place.name, journal.part)
        if place.directory.stat(journal.part):
            _move(place, journal.kept, place.name)
            return
        if place.directory.exchange(journal.kept, place.name):  # `kept` is the new one now
            return
    _move(place, place.name, journal.part)


def _put_back(place: DatabasePlace, journal: SwapJournal) -> None:
    for suffix in journal.aside:
        aside = f"{journal.kept}{suffix}"
        if place.directory.stat(aside) and not place.directory.stat(f"{place.name}{suffix}"):
            _move(place, aside, f"{place.name}{suffix}")


def _move(place: DatabasePlace, name: str, new: str) -> None:
    place.directory.rename(name, place.directory, new)
