"""Put a restored copy where a second instance of the app expects its database, and remove it again.

A mark beside it identifies the file that a drill put there, and is written before the file gets its name: the next
drill removes what a killed drill left, and no drill removes a file of anyone else.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backupd.errors import TargetRefused
from backupd.model import SourceFacts
from backupd.sqlite.database_files import mount_problem, same_place, side_files
from backupd.system.fs import change_owner, fsync_directory, fsync_file, place_exclusively, set_mode, write_durably
from backupd.system.owners import owner_or_directory_owner


class AppDatabase:
    """The database at `path`, which must not be one of the `databases` of sources; `warn` is called with problems."""

    def __init__(
        self, path: Path, databases: tuple[Path, ...], warn: Callable[[str], None] = lambda _what: None
    ) -> None:
        self._path, self._databases, self._warn = path, databases, warn
        self._mark = path.with_name(f".{path.name}.backupd-drill")
        self._part = path.with_name(f".{path.name}.backupd-drill.part")

    def prepare(self) -> None:
        """Remove what a killed drill left. Raises TargetRefused where the path is in use."""
        self._refuse_unsafe()
        self.clear()
        self.require_free()

    def require_free(self) -> None:
        """Raise TargetRefused unless a drill could put a copy there, after removing what a killed drill left."""
        self._refuse_unsafe()
        found = _identity(self._path)
        if found is not None and found != self._placed():
            raise TargetRefused(
                f"{self._path} exists, and no drill put it there: it is not touched",
                "stop the second instance; if that file is not needed, remove it, its -wal and its -shm",
            )

    @contextmanager
    def holding(self, restored: Path, origin: SourceFacts) -> Iterator[Path]:
        """Hold a durable copy of `restored`, with owner and mode of the source, there while the block runs.

        Side files without a database are removed: SQLite would replay them. Raises TargetRefused, OSError.
        """
        try:
            self._put(restored, origin)
            yield self._path
        finally:
            try:
                self.clear()
            except BaseException:  # SIGTERM in the middle of it
                self.clear()
                raise

    def clear(self) -> None:
        """Remove the file that a drill put there, and its side files; another file stays."""
        self._part.unlink(missing_ok=True)
        placed = self._placed()
        if placed is None:
            return
        if _identity(self._path) in (placed, None):
            self._path.unlink(missing_ok=True)
            self._remove_side_files()
        else:
            self._warn(
                f"{self._path} is not the file that the drill put there: it stays, and the next drill will refuse it"
            )
        self._mark.unlink(missing_ok=True)
        fsync_directory(self._path.parent)

    def _put(self, restored: Path, origin: SourceFacts) -> None:
        _copy(restored, self._part, origin)
        write_durably(self._mark, json.dumps(_identity(self._part)).encode())
        fsync_directory(self._path.parent)
        self._remove_side_files()
        try:
            place_exclusively(self._part, self._path)
        except FileExistsError as error:
            raise TargetRefused(f"{self._path} was created by another process", "stop the second instance") from error
        fsync_directory(self._path.parent)

    def _remove_side_files(self) -> None:
        for path in side_files(self._path):
            path.unlink(missing_ok=True)

    def _placed(self) -> list[int] | None:
        """Return the identity in the mark, None without a mark, an empty one where the mark is cut off."""
        try:
            marked = json.loads(self._mark.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            return []
        return marked if isinstance(marked, list) else []

    def _refuse_unsafe(self) -> None:
        directory = self._path.parent
        if not directory.is_dir():
            raise TargetRefused(
                f"the directory {directory} of place_at does not exist", "create it, or mount its volume"
            )
        if self._path.is_symlink():
            raise TargetRefused(f"place_at {self._path} is a symbolic link", "give the path of the file itself")
        if (apart := mount_problem(os.path.realpath(self._path))) is not None:
            raise TargetRefused(f"place_at: {apart.message}", apart.hint)
        for database in self._databases:
            if same_place(self._path, database) or same_place(self._path, Path(os.path.realpath(database))):
                raise TargetRefused(
                    f"place_at {self._path} is where the app's database {database} lies, or its side files",
                    "choose another directory, which is not mounted from there",
                )


def _identity(path: Path) -> list[int] | None:
    try:
        state = path.lstat()
    except FileNotFoundError:
        return None
    return [state.st_dev, state.st_ino]


def _copy(restored: Path, part: Path, origin: SourceFacts) -> None:
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with restored.open("rb") as source, open(descriptor, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        set_mode(descriptor, origin.mode & 0o777, part)
        uid, gid = owner_or_directory_owner(origin.uid, origin.gid, part.parent)
        if os.geteuid() == 0 and uid is not None:
            change_owner(descriptor, uid, gid, part)
    fsync_file(part)
