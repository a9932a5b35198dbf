"""The journal of the restore of a point: whether all of its targets are as before, or all as in the point.

A copy lies beside each target, and nowhere else: the store may be read-only, at another host, or gone, and a database
is lost, moved and copied with what lies beside it. All copies are written before the first target changes, and none is
removed before the last one is decided. So no copy has to say how far the restore went:

    a copy is missing       nothing had changed yet, or all is decided: only the rest of the copies goes
    all copies, all new     the restore is finished
    all copies, else        it is undone: what is new is put back

Who can write to one directory can forge what lies there. So a copy tells only what is done beside it, and where the
others are; beside another target nothing is done but what the copy there tells, which has to be of the same restore.
"""

import json
import secrets
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter

from backupd.errors import TargetRefused
from backupd.model import Kind, is_point_id
from backupd.sqlite.history import new_part_name, point_journal_name, read_record
from backupd.sqlite.swap import SwapJournal
from backupd.system.directory import Directory

FILES_JOURNAL: Final = ".backupd-restore-point"  # in the directory of a set of files
FILES_JOURNAL_PART: Final = f"{FILES_JOURNAL}.part"  # while it is written
_MAX_BYTES: Final = 1 << 20
_MOST_PARTS: Final = 1000

# What lies at a target: all as it was before, some of the new (a set of files alone), all of the new; or what neither
# was there before nor comes from the restore.
Found = Literal["old", "partial", "new", "other"]
Decision = Literal["forgotten", "finished", "undone"]


@dataclass(frozen=True, slots=True)
class PartPlace:
    """A target and the directory in which its copy lies: that of the database, or the set of files itself."""

    kind: Kind
    path: str  # absolute, links resolved
    inode: int  # of that directory: an empty mount point in its place is another one

    @property
    def directory(self) -> Path:
        """The directory in which the copy lies."""
        return Path(self.path).parent if self.kind == "database" else Path(self.path)

    @property
    def name(self) -> str:
        """The name of the copy."""
        return point_journal_name(Path(self.path).name) if self.kind == "database" else FILES_JOURNAL


@dataclass(frozen=True, slots=True)
class PointJournal:
    """One copy: the restore, all of its targets, and what happens beside this one."""

    point: str  # its id
    run: str  # tells two restores of one point apart
    places: tuple[PartPlace, ...]
    swap: SwapJournal | None = None  # of the database beside it

    def is_valid(self, at: PartPlace) -> bool:
        """Return whether this can be the copy at `at`: other users may be able to write to the directory."""
        own = at.kind == "files" if self.swap is None else self.swap.is_valid(Path(at.path).name)
        paths = [place.path for place in self.places]
        return (
            own
            and (at.kind, Path(at.path).name) in {(place.kind, Path(place.path).name) for place in self.places}
            and is_point_id(self.point)
            and len(set(paths)) == len(paths) <= _MOST_PARTS
            and all(Path(path).is_absolute() and ".." not in Path(path).parts for path in paths)
        )


_JOURNAL = TypeAdapter(PointJournal)


def new_run() -> str:
    """Return a name that tells one restore, or undo, of a point from all others."""
    return f"run-{secrets.token_hex(4)}"


def write_copy(directory: Directory, place: PartPlace, journal: PointJournal) -> None:
    """Write the copy at `place`, whose directory is open, durably. Raises OSError."""
    temporary = new_part_name(Path(place.path).name) if place.kind == "database" else FILES_JOURNAL_PART
    directory.replace(place.name, json.dumps(asdict(journal)).encode() + b"\n", temporary=temporary)


def read_copy(directory: Directory, place: PartPlace) -> PointJournal | None:
    """Return the copy at `place`, whose directory is open; None where there is none.

    Raises TargetRefused if it is damaged, PermissionError.
    """
    damaged = TargetRefused(
        f"{directory.path_of(place.name)} is damaged: cannot determine how far a killed restore of a point went",
        "check each database and directory of the app and what was kept beside it (….pre-restore-…), correct what is "
        "wrong, and remove it",
    )
    return read_record(directory, place.name, _JOURNAL, lambda journal: journal.is_valid(place), damaged, _MAX_BYTES)


def remove_copy(directory: Directory, place: PartPlace) -> None:
    """Remove the copy at `place`, durably, once the restore is decided. Raises OSError."""
    directory.fsync()
    directory.unlink(place.name)
    directory.fsync()


def decide(found: Collection[Found | None]) -> Decision:
    """Return what becomes of a killed restore, by what lies at each of its targets; None: the copy there is missing."""
    if None in found:
        return "forgotten"
    return "finished" if set(found) == {"new"} else "undone"
