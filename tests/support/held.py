"""Open directories and files, as tasks hand them to what works on them."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from backupd.archive.archive import Packed, pack
from backupd.sqlite import swap as swaps
from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.target import FileLease
from backupd.system.directory import Directory
from backupd.system.held_file import HeldFile


def held(path: Path) -> HeldFile:
    """Open the file at `path`; it and its directory stay open until this process ends."""
    return HeldFile.open(Directory.open(path.parent), path.name)


def pack_file(snapshot: Path, archive: Path, *, level: int | None = 1, workers: int = 1, **options: Any) -> Packed:
    """Pack the file `snapshot` into the new file `archive`."""
    advance = options.get("advance", lambda _done: None)
    with Directory.open(archive.parent) as directory, snapshot.open("rb", buffering=0) as source:
        target = HeldFile.create(directory, archive.name).stream()
        return pack(source, target, level=level, workers=workers, advance=advance)


def swap(target: Path, part: Path, lease: FileLease, now: datetime) -> Path | None:
    """Put the file `part` in place of `target`, see `backupd.sqlite.swap.swap`."""
    with DatabasePlace.open(target) as place:
        new = HeldFile.open(place.directory, part.name)
        return swaps.swap(place, new, lease, swaps.plan_swap(place, new, now))


def recover_swap(target: Path) -> swaps.Recovery | None:
    """Finish or undo a killed swap of `target`."""
    with DatabasePlace.open(target) as place:
        return swaps.recover_swap(place)


def written(path: Path) -> int:
    """Open the file at `path` to write it, until this process ends."""
    return os.open(path, os.O_RDWR)
