"""Holds and quarantine: what stops pruning, and the damaged copies that caused it.

They are files of the store, not rows of the catalog: losing the catalog must not set pruning free.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from backupd.model import Hold, is_generation_id
from backupd.system.fs import fsync_directory, inherit_owner, replace_durably, write_durably


class DamageMarks:
    """The marks of a store, one small file a damaged generation, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def ids(self) -> frozenset[str]:
        """Return the ids that are marked. Raises OSError, FileNotFoundError excepted."""
        try:
            return frozenset(path.name for path in self._directory.iterdir() if is_generation_id(path.name))
        except FileNotFoundError:
            return frozenset()

    def add(self, generation: str, why: str) -> None:
        """Mark `generation`, durably. Raises OSError."""
        path = self._directory / generation
        if path.exists():
            return
        if not self._directory.is_dir():
            self._directory.mkdir(mode=0o700)
            inherit_owner(self._directory.parent, self._directory)
        write_durably(path, f"{why}\n".encode(errors="backslashreplace"))
        fsync_directory(self._directory)

    def clear(self, generation: str) -> None:
        """Take the mark away: the generation was found sound, or is gone. Raises OSError."""
        mark = self._directory / generation
        if mark.exists():  # on a read-only disk even what is not there cannot be removed
            mark.unlink(missing_ok=True)


class Holds:
    """The holds of a store, one small JSON file a source, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, source: str) -> Hold | None:
        """Return the hold on `source`. A file that cannot be read holds as well: better too much kept."""
        path = self._path(source)
        try:
            said = json.loads(path.read_bytes())
            said["since"] = datetime.fromisoformat(said["since"])
            return Hold(**{**said, "source": source})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError, OSError):
            since = datetime.fromtimestamp(path.lstat().st_mtime, UTC)
            return Hold(source, "corrupt", since, f"{path} cannot be read", None)

    def set(self, hold: Hold) -> Hold:
        """Hold; an older hold on the source keeps its beginning and its reference. Returns what holds now."""
        old = self.get(hold.source)
        if old is not None:
            hold = replace(hold, since=old.since, reference=old.reference or hold.reference)
        self._make()
        text = json.dumps({**asdict(hold), "since": hold.since.isoformat()}, indent=2) + "\n"
        path = self._path(hold.source)
        replace_durably(path, text.encode(), temporary=path.with_suffix(".new"))
        return hold

    def accept(self, source: str) -> None:
        """Let the next copy of `source` be published although it cannot be read, until the next `release`."""
        self._make()
        write_durably(self._acceptance(source), b"")
        fsync_directory(self._directory)

    def accepted(self, source: str) -> bool:
        """Tell whether the next copy of `source` may be one that cannot be read."""
        return self._acceptance(source).exists()

    def release(self, source: str) -> bool:
        """Let pruning of `source` go on, and end any acceptance; False when nothing held it."""
        path = self._path(source)
        self._acceptance(source).unlink(missing_ok=True)
        if not path.exists():
            return False
        path.unlink()
        fsync_directory(self._directory)
        return True

    def _path(self, source: str) -> Path:
        return self._directory / f"{source}.json"

    def _acceptance(self, source: str) -> Path:
        return self._directory / f"{source}.accepted"

    def _make(self) -> None:
        if not self._directory.is_dir():
            self._directory.mkdir(mode=0o700)
            inherit_owner(self._directory.parent, self._directory)


@dataclass(frozen=True, slots=True)
class QuarantinedCopy:
    """A damaged copy with what was found, in the directory `place`, since `since` (aware, UTC)."""

    name: str
    place: Path
    since: datetime
    size_bytes: int


class Quarantine:
    """Damaged copies in `directory`, for inspection: of each source the first, nearest to the cause, and the last."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def copies(self) -> tuple[QuarantinedCopy, ...]:
        """Return all damaged copies, by source and age. Raises OSError."""
        places = sorted(path for path in self._directory.glob("*/*") if path.is_dir() and not path.is_symlink())
        return tuple(_quarantined(place) for place in places)

    def add(self, source: str, name: str, snapshot: Path, findings: Iterable[str]) -> Path:
        """Move the damaged `snapshot` here under `name`, with what was found; returns where it is now."""
        home = self._directory / source
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self._directory, home):
            inherit_owner(path.parent, path)
        for old in sorted(path for path in home.iterdir() if path.is_dir())[1:]:
            shutil.rmtree(old)
        place = home / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(mode=0o700)
        inherit_owner(home, place)
        target = place / "snapshot.sqlite3"
        snapshot.rename(target)
        write_durably(place / "findings.txt", "".join(f"{line}\n" for line in findings).encode())
        inherit_owner(home, target)
        fsync_directory(place)
        return target

    def remove(self, copy: QuarantinedCopy) -> None:
        """Remove one damaged copy, durably. Raises OSError."""
        shutil.rmtree(copy.place)
        fsync_directory(copy.place.parent)


def _quarantined(place: Path) -> QuarantinedCopy:
    size_bytes = sum(path.lstat().st_size for path in place.iterdir())
    return QuarantinedCopy(place.name, place, datetime.fromtimestamp(place.stat().st_mtime, UTC), size_bytes)
