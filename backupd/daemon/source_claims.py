"""One daemon a source: a claim is a lock that is held for as long as the daemon lives.

In a rolling deploy the new daemon stands by until the old one ends; daemons of different sources can share a store.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from backupd.errors import LockHeld
from backupd.system.file_lock import file_lock


class SourceClaims:
    """The claims of this daemon on `subjects` (sources and replicas), as lock files in `directory`."""

    def __init__(self, subjects: Iterable[str], directory: Path) -> None:
        self._subjects, self._directory = tuple(dict.fromkeys(subjects)), directory
        self._held: dict[str, tuple[ExitStack, int]] = {}

    def held(self) -> frozenset[str]:
        """Claim what is free, and return all that is ours; a lock whose file was taken away is claimed anew.

        Raises OSError when `directory` is not there.
        """
        for subject in self._subjects:
            path = self._directory / f"daemon-{subject}.lock"
            if subject in self._held and not _is_file(path, self._held[subject][1]):
                self._held.pop(subject)[0].close()
            if subject not in self._held:
                self._claim(subject, path)
        return frozenset(self._held)

    def others(self) -> tuple[str, ...]:
        """Return the subjects that another daemon looks after, as `held` last found it."""
        return tuple(subject for subject in self._subjects if subject not in self._held)

    def release_all(self) -> None:
        """Give up all claims."""
        for stack, _ in self._held.values():
            stack.close()
        self._held.clear()

    def _claim(self, subject: str, path: Path) -> None:
        stack = ExitStack()
        try:
            stack.enter_context(file_lock(path, "daemon"))
            self._held[subject] = stack, path.stat().st_ino
        except LockHeld:
            stack.close()


def _is_file(path: Path, inode: int) -> bool:
    try:
        return path.stat().st_ino == inode
    except FileNotFoundError:
        return False
