"""What a restore is about to do to a database, written down first: a restore that was killed is finished or undone."""

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
from backupd.system.fs import fsync_directory, replace_durably

KEPT = ".pre-restore-"
RECORD = ".json"
_KEPT_NAME = re.compile(r"\d{8}T\d{6}Z(-\d+)?")
_PART_NAME = re.compile(r"[0-9a-f]{8}\.part")
_MAX_BYTES = 1 << 16

Suffix = Literal["-wal", "-shm", "-journal"]


@dataclass(frozen=True, slots=True)
class FileMark:
    """How a file is known again, and whether somebody wrote to it since."""

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
    """The file `part` is to become the database `target`, and the old one, if there is any, `kept`.

    All are names in one directory. The side files `aside` go with the old database, those of `bring` come with `part`.
    `takes_back` is the restore that this one takes back, by the name that it kept the old database by.
    """

    target: str
    part: str
    new: FileMark
    kept: str
    old: FileMark | None
    aside: tuple[Suffix, ...]
    bring: tuple[Suffix, ...]
    takes_back: str | None = None


_INTENT = TypeAdapter(SwapJournal)


def swap_journal_path(target: Path) -> Path:
    """Return where the intent of a restore to `target` lies while it is at work."""
    return target.with_name(f".{target.name}.restore")


@contextmanager
def journal_written(target: Path, journal: SwapJournal) -> Iterator[None]:
    """Keep `journal` on the disk during the block; it stays there when the block is broken off. Raises OSError."""
    data = json.dumps(asdict(journal)).encode()
    replace_durably(swap_journal_path(target), data, temporary=part_path(target))
    yield
    remove_journal(target)


def remove_journal(target: Path) -> None:
    """Remove the intent, durably: what it was about is over. Raises OSError."""
    fsync_directory(target.parent)
    swap_journal_path(target).unlink(missing_ok=True)
    fsync_directory(target.parent)


def pending_swap(target: Path) -> SwapJournal | None:
    """Return what a killed restore to `target` was about; TargetRefused when that is unknown, PermissionError."""
    path = swap_journal_path(target)
    try:
        journal = _INTENT.validate_json(read_small(path))
    except FileNotFoundError:
        return None
    except PermissionError:  # of the directory: it says nothing about the file
        raise
    except (ValidationError, OSError):  # OSError: a link, a directory
        journal = None
    if journal is None or not _is_ours(journal, target):
        raise TargetRefused(
            f"{path} is damaged: nobody can tell how far a killed restore came",
            f"look at {target} and the files named {target.name}{KEPT}…, put right what is wrong, and remove it",
        )
    return journal


def read_small(path: Path) -> bytes:
    """Return what is in a small file of ours that others may have put there; a link is not followed. Raises OSError."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
        return stream.read(_MAX_BYTES)


def kept_order(name: str, target: str) -> tuple[str, int]:
    """Return what old databases of `target` are ordered by: the time in the name, then the number behind it."""
    time, _, number = name.removeprefix(f"{target}{KEPT}").partition("-")
    return time, int(number or 1)


def is_kept(name: str, target: str) -> bool:
    """Tell whether `name` is that of an old database that a restore to `target` kept."""
    return name.startswith(f"{target}{KEPT}") and _KEPT_NAME.fullmatch(name.removeprefix(f"{target}{KEPT}")) is not None


def part_path(target: Path) -> Path:
    """Return a new name beside `target` for a file that is to become it."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")


def is_part(name: str, target: str) -> bool:
    """Tell whether `name` is that of a file that is not yet, but to become, `target`."""
    return name.startswith(f".{target}.") and _PART_NAME.fullmatch(name.removeprefix(f".{target}.")) is not None


def _is_ours(journal: SwapJournal, target: Path) -> bool:
    """Whoever may write to the app's directory might have written it: it may name nothing but what we name so."""
    known_part = is_part(journal.part, target.name) or is_kept(journal.part, target.name)
    known_undo = journal.takes_back is None or is_kept(journal.takes_back, target.name)
    return journal.target == target.name and known_part and known_undo and is_kept(journal.kept, target.name)
