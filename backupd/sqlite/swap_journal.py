"""The journal of a swap, written first so that a killed restore is finished or undone, and the names of its files."""

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import TypeAdapter, ValidationError

from backupd.errors import TargetRefused
from backupd.sqlite.database_files import SIDE_SUFFIXES
from backupd.system.fs import fsync_directory, replace_durably

KEPT = ".pre-restore-"
RECORD = ".json"
_KEPT_NAME = re.compile(r"\d{8}T\d{6}Z(-\d+)?")
_PART_NAME = re.compile(r"[0-9a-f]{8}\.part")
_MAX_BYTES = 1 << 16

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


_JOURNAL = TypeAdapter(SwapJournal)


def swap_journal_path(target: Path) -> Path:
    """Return the path of the journal of a swap of `target`."""
    return target.with_name(f".{target.name}.restore")


@contextmanager
def journal_written(target: Path, journal: SwapJournal) -> Iterator[None]:
    """Keep `journal` on disk during the block; it remains there when the block fails. Raises OSError."""
    data = json.dumps(asdict(journal)).encode()
    replace_durably(swap_journal_path(target), data, temporary=part_path(target))
    yield
    remove_journal(target)


def remove_journal(target: Path) -> None:
    """Remove the journal, durably, when its swap is finished or undone. Raises OSError."""
    fsync_directory(target.parent)
    swap_journal_path(target).unlink(missing_ok=True)
    fsync_directory(target.parent)


def pending_swap(target: Path) -> SwapJournal | None:
    """Return the journal of a swap of `target` that was killed. Raises TargetRefused if damaged, PermissionError."""
    path = swap_journal_path(target)
    try:
        journal = _JOURNAL.validate_json(read_small(path))
    except FileNotFoundError:
        return None
    except PermissionError:  # of the directory: it says nothing about the file
        raise
    except (ValidationError, OSError):  # OSError: a link, a directory
        journal = None
    if journal is None or not _is_valid(journal, target):
        raise TargetRefused(
            f"{path} is damaged: cannot determine how far a killed restore went",
            f"check {target} and the files named {target.name}{KEPT}…, correct what is wrong, and remove it",
        )
    return journal


def read_small(path: Path) -> bytes:
    """Return the first 64 KiB of a small file that other users may have replaced; follows no link. Raises OSError."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
        return stream.read(_MAX_BYTES)


def kept_order(name: str, target: str) -> tuple[str, int]:
    """Return the sort key of a kept database of `target`: the time in its name, then the number after it."""
    time, _, number = name.removeprefix(f"{target}{KEPT}").partition("-")
    return time, int(number or 1)


def is_kept(name: str, target: str) -> bool:
    """Return whether `name` is the name of an old database that a restore to `target` kept."""
    return name.startswith(f"{target}{KEPT}") and _KEPT_NAME.fullmatch(name.removeprefix(f"{target}{KEPT}")) is not None


def part_path(target: Path) -> Path:
    """Return a new name beside `target` for a file that is to become it."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")


def is_part(name: str, target: str) -> bool:
    """Return whether `name` is the name of a file that is to become `target`."""
    return name.startswith(f".{target}.") and _PART_NAME.fullmatch(name.removeprefix(f".{target}.")) is not None


def is_part_file(name: str, target: str) -> bool:
    """Return whether `name` is the name of a file that is to become `target`, or of a side file of one."""
    return any(is_part(name.removesuffix(suffix), target) for suffix in ("", *SIDE_SUFFIXES))


def _is_valid(journal: SwapJournal, target: Path) -> bool:
    """Return whether all names are ones that backupd makes: other users may be able to write to the directory."""
    known_part = is_part(journal.part, target.name) or is_kept(journal.part, target.name)
    known_undo = journal.takes_back is None or is_kept(journal.takes_back, target.name)
    return journal.target == target.name and known_part and known_undo and is_kept(journal.kept, target.name)
