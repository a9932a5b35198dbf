"""Put a proven file in place of a database: killed at any instruction, it is entirely the old one or the new one.

The old one is kept beside it, with what its side files still held. The swap is one rename, under a lease that tells
when somebody opens the old file in that very moment: then it is taken back before they get it.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal, cast

from backupd.errors import TargetInUse
from backupd.sqlite.database_files import SIDE_SUFFIXES
from backupd.sqlite.history import RecordedRestore, RestoreRecord, new_kept_name, record_path, write_record
from backupd.sqlite.swap_journal import (
    FileMark,
    Suffix,
    SwapJournal,
    is_part,
    journal_written,
    pending_swap,
    remove_journal,
)
from backupd.sqlite.target_locks import FileLease
from backupd.system.fs import exchange_names, fsync_directory
from backupd.system.signals import defer_signals


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was done about a restore that was killed, and in words what somebody should look at."""

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
    """Let `part`, a durable file in the same directory, become `target`; returns where the old database is kept.

    The side files of the old one go with it, those of `part` come with the new one. `lease` is held on the old one.
    `record` says which restore this is, for a later undo; that of the restore that it `takes_back` goes.

    Raises TargetInUse, with everything as it was, when somebody opened it meanwhile; OSError. SIGTERM comes too late.
    """
    journal = _plan(target, part, now, takes_back)
    with defer_signals(), journal_written(target, journal):
        try:
            if record is not None:
                with suppress(OSError):  # no inode is left: what is kept can be put back without it
                    write_record(target.with_name(journal.kept), record, target)
            _rename(target, part, lease, journal)
        except BaseException:  # somebody opened it, a disk that fails: better at once than by the next run
            _undo(target, journal)
            remove_journal(target)
            raise
        _bring(target, journal)
        _forget_undone(target, journal)
    return target.with_name(journal.kept) if journal.old is not None else None


def recover_swap(target: Path) -> Recovery | None:
    """Finish or undo what a killed restore began; None when there is nothing to do. Raises TargetRefused, OSError."""
    journal = pending_swap(target)
    if journal is None:
        return None
    now, kept = FileMark.of(target), target.with_name(journal.kept)
    if now is not None and now.inode == journal.new.inode:
        healed = Recovery("finished", f"the old database is {kept}" if journal.old else "")
        if now == journal.new:
            _bring(target, journal)
        _forget_undone(target, journal)
    elif now is None or (journal.old is not None and now.inode == journal.old.inode):
        _undo(target, journal)
        healed = Recovery("undone", f"{target} is what it was")
    else:
        healed = Recovery("left", f"{target} was replaced by something else meanwhile; an old one may be {kept}")
    if is_part(journal.part, target.name):
        remove_part(target.with_name(journal.part))
    remove_journal(target)
    return healed


def sweep_parts(target: Path) -> None:
    """Remove what killed restores left of files that were to become `target`, side files too. Raises OSError."""
    for path in target.parent.iterdir():
        if any(is_part(path.name.removesuffix(suffix), target.name) for suffix in ("", *SIDE_SUFFIXES)):
            _remove(path)


def remove_part(path: Path) -> None:
    """Remove a file that is to become no database any more, with its side files. Raises OSError."""
    for suffix in ("", *SIDE_SUFFIXES):
        _remove(Path(f"{path}{suffix}"))


def _remove(path: Path) -> None:
    """Remove a file, if it is there; a directory of that name is not ours."""
    with suppress(FileNotFoundError, IsADirectoryError):
        path.unlink()


def side_files(path: Path) -> tuple[Suffix, ...]:
    """Return the suffixes of the side files that lie beside `path`."""
    return tuple(cast("Suffix", suffix) for suffix in SIDE_SUFFIXES if os.path.lexists(f"{path}{suffix}"))


def _rename(target: Path, part: Path, lease: FileLease, journal: SwapJournal) -> None:
    """Set the old one aside and rename. Raises TargetInUse when somebody asked for the old one meanwhile."""
    _set_aside(target, journal)
    kept = target.with_name(journal.kept)
    named_twice = journal.old is None or _linked(target, kept)
    put = partial(part.rename, target) if named_twice else partial(_exchange, target, part, kept)
    if not lease.open_requested(target):
        put()
    if lease.open_requested(target):
        raise TargetInUse(f"{target} was opened in that very moment: all is as it was")


def _plan(target: Path, part: Path, now: datetime, takes_back: RecordedRestore | None) -> SwapJournal:
    new = FileMark.of(part)
    assert new is not None  # noqa: S101 - the caller has just made it
    return SwapJournal(
        target=target.name,
        part=part.name,
        new=new,
        kept=new_kept_name(target, now),
        old=FileMark.of(target),
        aside=side_files(target),
        bring=side_files(part),
        takes_back=takes_back.path.name if takes_back else None,
    )


def _set_aside(target: Path, journal: SwapJournal) -> None:
    """Let the side files follow the old database, so that they are never found beside the new one."""
    for suffix in journal.aside:
        with suppress(FileNotFoundError):
            _beside(target, suffix).rename(target.with_name(f"{journal.kept}{suffix}"))
    fsync_directory(target.parent)


def _linked(target: Path, kept: Path) -> bool:
    """Give the old database its second name, durably; False on a file system without hard links (FAT, SMB)."""
    try:
        os.link(target, kept)
    except OSError:
        return False
    fsync_directory(target.parent)
    return True


def _exchange(target: Path, part: Path, kept: Path) -> None:
    """Let the new file, by the name that the old one is to bear, exchange names with it: one of them is always there.

    Where the file system cannot do that either, there is none for a moment.
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
    """Bring everything back to where it was; whatever was done of it before may be done again."""
    record_path(target.with_name(journal.kept)).unlink(missing_ok=True)
    kept, part, mark = target.with_name(journal.kept), target.with_name(journal.part), FileMark.of(target)
    if mark is not None and mark.inode == journal.new.inode:
        _give_its_name_back(target, part, kept)
        mark = FileMark.of(target)
    held = FileMark.of(kept)
    if held is not None and held.inode == journal.new.inode:  # it was about to exchange names with the old one
        kept.rename(part)
    if mark is None:
        with suppress(FileNotFoundError):
            kept.rename(target)
    elif FileMark.of(kept) == mark:  # the second name of what lies there
        kept.unlink()
    if (
        FileMark.of(target) == journal.old
    ):  # nobody has written to it since: what is in its side files still belongs to it
        _put_back(target, journal)


def _give_its_name_back(target: Path, part: Path, kept: Path) -> None:
    """Let the new file be `part` (or `kept`) again; in one step for who opens `target`, where another one is kept."""
    if kept.exists():
        with suppress(OSError):  # no hard links; or it was done before a kill
            os.link(target, part)
        if part.exists():
            kept.rename(target)
            return
        if exchange_names(kept, target):  # and `kept` is the new one
            return
    target.rename(part)


def _put_back(target: Path, journal: SwapJournal) -> None:
    for suffix in journal.aside:
        aside = target.with_name(f"{journal.kept}{suffix}")
        if aside.exists() and not os.path.lexists(_beside(target, suffix)):
            aside.rename(_beside(target, suffix))


def _beside(target: Path, suffix: Suffix) -> Path:
    return target.with_name(f"{target.name}{suffix}")
