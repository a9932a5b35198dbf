"""Marks of damage: which generations of a store a check has found wanting.

Files of the store, like holds: losing the catalog must not let a damaged generation count again.
"""

from pathlib import Path

from backupd.files import fsync_directory, give_to_owner_of, write_durably
from backupd.model import is_generation_id


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
            give_to_owner_of(self._directory.parent, self._directory)
        write_durably(path, f"{why}\n".encode(errors="backslashreplace"))
        fsync_directory(self._directory)

    def clear(self, generation: str) -> None:
        """Take the mark away: the generation was found sound, or is gone. Raises OSError."""
        mark = self._directory / generation
        if mark.exists():  # on a read-only disk even what is not there cannot be removed
            mark.unlink(missing_ok=True)
