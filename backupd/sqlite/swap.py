"""Replace a database by a verified file: killed at any instruction, it is entirely the old or the new one.

The old database is kept beside it, with its side files. A journal is written first, from which a killed swap is
finished or undone. The swap is one rename under a lease, which detects a process that opens the old file at that
moment: then the swap is undone before the process gets the file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal, Self, cast

from pydantic import TypeAdapter

from backupd.errors import TargetInUse, TargetRefused
from backupd.sqlite.database_files import SIDE_SUFFIXES
from backupd.sqlite.history import (
    KEPT,
    RecordedRestore,
    RestoreRecord,
    is_kept,
    is_part,
    is_part_file,
    new_kept_name,
    read_record,
    record_path,
    swap_journal_path,
    write_record,
)
from backupd.sqlite.target import FileLease
from backupd.system.fs import exchange_names, fsync_directory
from backupd.system.signals import defer_signals

Suffix = Literal["-wal", "-shm", "-journal"]


@dataclass(frozen=True, slots=True)
class FileMark:
    """What identifies a file, and shows whether it was written to since."""

    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Return the mark of the file at `path`, None when there is none."""
        try:
            state = path.lstat()
        except FileNotFoundError:
            return None
        return cls(state.st_ino, state.st_size, state.st_mtime_ns)


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

    def is_valid(self, target: Path) -> bool:
        """Return whether all names are ones that backupd makes: other users may be able to write to the directory."""
        known_part = is_part(self.part, target.name) or is_kept(self.part, target.name)
        known_undo = self.takes_back is None or is_kept(self.takes_back, target.name)
        return self.target == target.name and known_part and known_undo and is_kept(self.kept, target.name)


_JOURNAL = TypeAdapter(SwapJournal)


@contextmanager
def journal_written(target: Path, journal: SwapJournal) -> Iterator[None]:
    """Keep `journal` on disk during the block; it remains there when the block fails. Raises OSError."""
    write_record(swap_journal_path(target), journal, target)
    yield
    _remove_journal(target)


def pending_swap(target: Path) -> SwapJournal | None:
    """Return the journal of a swap of `target` that was killed. Raises TargetRefused if damaged, PermissionError."""
    path = swap_journal_path(target)
    damaged = TargetRefused(
        f"{path} is damaged: cannot determine how far a killed restore went",
        f"check {target} and the files named {target.name}{KEPT}…, correct what is wrong, and remove it",
    )
    return read_record(path, _JOURNAL, lambda journal: journal.is_valid(target), damaged)


def _remove_journal(target: Path) -> None:
    """Remove the journal, durably, when its swap is finished or undone. Raises OSError."""
    fsync_directory(target.parent)
    swap_journal_path(target).unlink(missing_ok=True)
    fsync_directory(target.parent)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was done about a restore that was killed, and the details for the log."""

    what: Literal["finished", "undone", "left"]
    detail: str


def swap(
    target: Path,
    part: Path,
    lease: FileLease,
    now: datetime,
    record: RestoreRecord | None = None,
    takes_back: RecordedRestore | None = None,
) -> Path | None:
    """Rename `part`, a durable file in the same directory, to `target`; returns the path of the kept old database.

    The side files of the old database are kept with it, those of `part` come with the new one. `lease` is held on the
    old one. `record` describes this restore for a later undo; that of the restore that it `takes_back` is removed.

    Raises TargetInUse, with everything unchanged, when a process opened the old one during the swap; OSError. SIGTERM
    is deferred to the end.
    """
    journal = _plan(target, part, now, takes_back)
    with defer_signals(), journal_written(target, journal):
        try:
            if record is not None:
                with suppress(OSError):  # no inode is left: an undo works without it
                    write_record(record_path(target.with_name(journal.kept)), record, target)
            _rename(target, part, lease, journal)
        except BaseException:  # also a failing disk: undo now rather than in the next run
            _undo(target, journal)
            _remove_journal(target)
            raise
        _bring(target, journal)
        _forget_undone(target, journal)
    return target.with_name(journal.kept) if journal.old is not None else None


def recover_swap(target: Path) -> Recovery | None:
    """Finish or undo a swap that was killed; None when there is none. Raises TargetRefused, OSError."""
    journal = pending_swap(target)
    if journal is None:
        return None
    now, kept = FileMark.of(target), target.with_name(journal.kept)
    if now is not None and now.inode == journal.new.inode:
        recovery = Recovery("finished", f"the old database is {kept}" if journal.old else "")
        if now == journal.new:
            _bring(target, journal)
        _forget_undone(target, journal)
    elif now is None or (journal.old is not None and now.inode == journal.old.inode):
        _undo(target, journal)
        recovery = Recovery("undone", f"{target} is unchanged")
    else:
        recovery = Recovery("left", f"{target} was replaced by another file since; the old database may be {kept}")
    if is_part(journal.part, target.name):
        remove_part(target.with_name(journal.part))
    _remove_journal(target)
    return recovery


def sweep_parts(target: Path) -> None:
    """Remove the part files of killed restores to `target`, and their side files. Raises OSError."""
    for path in target.parent.iterdir():
        if is_part_file(path.name, target.name):
            _remove(path)


def remove_part(path: Path) -> None:
    """Remove a part file and its side files. Raises OSError."""
    for suffix in ("", *SIDE_SUFFIXES):
        _remove(Path(f"{path}{suffix}"))


def _remove(path: Path) -> None:
    """Remove a file, if it exists; a directory is left alone."""
    with suppress(FileNotFoundError, IsADirectoryError):
        path.unlink()


def _existing_suffixes(path: Path) -> tuple[Suffix, ...]:
    """Return the suffixes of the side files that exist beside `path`."""
    return tuple(cast("Suffix", suffix) for suffix in SIDE_SUFFIXES if os.path.lexists(f"{path}{suffix}"))


def _rename(target: Path, part: Path, lease: FileLease, journal: SwapJournal) -> None:
    """Set the old database aside and rename. Raises TargetInUse when a process opens it during that."""
    _set_aside(target, journal)
    kept = target.with_name(journal.kept)
    is_linked = journal.old is None or _linked(target, kept)
    rename = partial(part.rename, target) if is_linked else partial(_exchange, target, part, kept)
    if not lease.open_requested(target):
        rename()
    if lease.open_requested(target):
        raise TargetInUse(f"{target} was opened during the swap: nothing was changed")


def _plan(target: Path, part: Path, now: datetime, takes_back: RecordedRestore | None) -> SwapJournal:
    new = FileMark.of(part)
    assert new is not None  # noqa: S101 - the caller has just created it
    return SwapJournal(
        target=target.name,
        part=part.name,
        new=new,
        kept=new_kept_name(target, now),
        old=FileMark.of(target),
        aside=_existing_suffixes(target),
        bring=_existing_suffixes(part),
        takes_back=takes_back.path.name if takes_back else None,
    )


def _set_aside(target: Path, journal: SwapJournal) -> None:
    """Rename the side files as the old database will be, so that SQLite never finds them beside the new one."""
    for suffix in journal.aside:
        with suppress(FileNotFoundError):
            _beside(target, suffix).rename(target.with_name(f"{journal.kept}{suffix}"))
    fsync_directory(target.parent)


def _linked(target: Path, kept: Path) -> bool:
    """Link the old database to its new name, durably; False on a file system without hard links (FAT, SMB)."""
    try:
        os.link(target, kept)
    except OSError:
        return False
    fsync_directory(target.parent)
    return True


def _exchange(target: Path, part: Path, kept: Path) -> None:
    """Give the new file the name for the old one, then exchange the two names: `target` always exists.

    On a file system without that operation, `target` is missing for a moment.
    """
    part.rename(kept)
    fsync_directory(target.parent)
    if not exchange_names(kept, target):
        kept.rename(part)
        target.rename(kept)
        fsync_directory(target.parent)
        part.rename(target)


def _bring(target: Path, journal: SwapJournal) -> None:
    for suffix in journal.bring:
        with suppress(FileNotFoundError):
            target.with_name(f"{journal.part}{suffix}").rename(_beside(target, suffix))


def _forget_undone(target: Path, journal: SwapJournal) -> None:
    if journal.takes_back is not None:
        record_path(target.with_name(journal.takes_back)).unlink(missing_ok=True)


def _undo(target: Path, journal: SwapJournal) -> None:
    """Undo the swap; every step may be repeated after a kill."""
    record_path(target.with_name(journal.kept)).unlink(missing_ok=True)
    kept, part, mark = target.with_name(journal.kept), target.with_name(journal.part), FileMark.of(target)
    if mark is not None and mark.inode == journal.new.inode:
        _rename_new_back(target, part, kept)
        mark = FileMark.of(target)
    held = FileMark.of(kept)
    if held is not None and held.inode == journal.new.inode:  # killed before the exchange
        kept.rename(part)
    if mark is None:
        with suppress(FileNotFoundError):
            kept.rename(target)
    elif FileMark.of(kept) == mark:  # the second link to the old database
        kept.unlink()
    if FileMark.of(target) == journal.old:  # unchanged since: its side files still belong to it
        _put_back(target, journal)


def _rename_new_back(target: Path, part: Path, kept: Path) -> None:
    """Rename the new file back to `part` (or `kept`); `target` is replaced in one step where the old one is kept."""
    if kept.exists():
        with suppress(OSError):  # no hard links, or linked before a kill
            os.link(target, part)
        if part.exists():
            kept.rename(target)
            return
        if exchange_names(kept, target):  # `kept` is the new one now
            return
    target.rename(part)


def _put_back(target: Path, journal: SwapJournal) -> None:
    for suffix in journal.aside:
        aside = target.with_name(f"{journal.kept}{suffix}")
        if aside.exists() and not os.path.lexists(_beside(target, suffix)):
            aside.rename(_beside(target, suffix))


def _beside(target: Path, suffix: Suffix) -> Path:
    return target.with_name(f"{target.name}{suffix}")
