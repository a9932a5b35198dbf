"""Put a restored copy where a second instance of the app expects its database, and remove it again.

A mark beside it identifies the file that a drill put there, and is written before the file gets its name: the next
drill removes what a killed drill left, and no drill removes a file of anyone else. The app may write to that directory,
which is open while anything in it is looked at, made or removed.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backupd.errors import TargetRefused
from backupd.model import SourceFacts
from backupd.sqlite.database_files import DatabasePlace, mount_problem, same_place, side_files
from backupd.system.fs import change_owner, set_mode, write_all
from backupd.system.held_file import HeldFile
from backupd.system.small_file import UnexpectedFile

_MARK_BYTES, _CHUNK_BYTES = 4096, 1 << 20


class AppDatabase:
    """The database at `path`, which must not be one of the `databases` of sources; `warn` is called with problems."""

    def __init__(
        self, path: Path, databases: tuple[Path, ...], warn: Callable[[str], None] = lambda _what: None
    ) -> None:
        self.path, self._databases, self._warn = path, databases, warn
        self._mark = f".{path.name}.backupd-drill"
        self._part = f"{self._mark}.part"

    def prepare(self) -> None:
        """Remove what a killed drill left. Raises TargetRefused where the path is in use, OSError."""
        with self._opened() as place:
            self._clear(place)
            self._require_free(place)

    def require_usable(self) -> None:
        """Write and remove a file beside the path. Raises TargetRefused unless a drill could put a copy there, OSError.

        A drill first removes what a killed one left.
        """
        with self._opened() as place:
            self._require_free(place)
            probe = f".{self.path.name}.{secrets.token_hex(4)}"
            try:
                place.directory.write(probe, b"written and deleted by backupd doctor")
            finally:
                place.directory.unlink(probe)

    @contextmanager
    def holding(self, restored: HeldFile, origin: SourceFacts) -> Iterator[HeldFile]:
        """Hold a durable copy of `restored`, with owner and mode of the source, there while the block runs.

        Side files without a database are removed: SQLite would replay them. Raises TargetRefused, OSError.
        """
        with self._opened() as place:
            try:
                yield self._put(place, restored, origin)
            finally:
                try:
                    self._clear(place)
                except BaseException:  # SIGTERM in the middle of it
                    self._clear(place)
                    raise

    @contextmanager
    def _opened(self) -> Iterator[DatabasePlace]:
        """Open the directory for the block. Raises TargetRefused, OSError."""
        self._refuse_unsafe()
        with DatabasePlace.open(self.path) as place:
            if place.name != self.path.name:
                raise self._is_link()
            yield place

    def _clear(self, place: DatabasePlace) -> None:
        """Remove the file that a drill put there, and its side files; another file stays."""
        place.directory.unlink(self._part)
        placed = self._placed(place)
        if placed is None:
            return
        if _identity(place.directory.stat(place.name)) in (placed, None):
            place.directory.unlink(place.name)
            _remove_side_files(place)
        else:
            self._warn(
                f"{self.path} is not the file that the drill put there: it stays, and the next drill will refuse it"
            )
        place.directory.unlink(self._mark)
        place.directory.fsync()

    def _require_free(self, place: DatabasePlace) -> None:
        found = _identity(place.directory.stat(place.name))
        if found is not None and found != self._placed(place):
            raise TargetRefused(
                f"{self.path} exists, and no drill put it there: it is not touched",
                "stop the second instance; if that file is not needed, remove it, its -wal and its -shm",
            )

    def _put(self, place: DatabasePlace, restored: HeldFile, origin: SourceFacts) -> HeldFile:
        part = HeldFile.create(place.directory, self._part)
        _copy(restored, part, place, origin)
        place.directory.write(self._mark, json.dumps(_identity(os.fstat(part.descriptor))).encode())
        place.directory.fsync()
        _remove_side_files(place)
        try:
            place.directory.place(part.name, part.descriptor, place.directory, place.name)
        except FileExistsError as error:
            raise TargetRefused(f"{self.path} was created by another process", "stop the second instance") from error
        place.directory.fsync()
        return HeldFile(place.directory, place.name, part.descriptor)

    def _placed(self, place: DatabasePlace) -> list[int] | None:
        """Return the identity in the mark, None without a mark, an empty one where the mark is cut off."""
        try:
            marked = json.loads(place.directory.read(self._mark, _MARK_BYTES))
        except FileNotFoundError:
            return None
        except UnexpectedFile as error:
            raise TargetRefused(
                f"{error.filename} is {error.strerror}: no drill made it",
                "find out which process put it there, and remove it",
            ) from error
        except (RecursionError, ValueError):
            return []
        return marked if isinstance(marked, list) else []

    def _is_link(self) -> TargetRefused:
        return TargetRefused(f"place_at {self.path} is a symbolic link", "give the path of the file itself")

    def _refuse_unsafe(self) -> None:
        directory = self.path.parent
        if not directory.is_dir():
            raise TargetRefused(
                f"the directory {directory} of place_at does not exist", "create it, or mount its volume"
            )
        if self.path.is_symlink():
            raise self._is_link()
        if (apart := mount_problem(os.path.realpath(self.path))) is not None:
            raise TargetRefused(f"place_at: {apart.message}", apart.hint)
        for database in self._databases:
            if same_place(self.path, database) or same_place(self.path, Path(os.path.realpath(database))):
                raise TargetRefused(
                    f"place_at {self.path} is where the app's database {database} lies, or its side files",
                    "choose another directory, which is not mounted from there",
                )


def _remove_side_files(place: DatabasePlace) -> None:
    for path in side_files(place.path):
        place.directory.unlink(path.name)


def _identity(state: os.stat_result | None) -> list[int] | None:
    return None if state is None else [state.st_dev, state.st_ino]


def _copy(restored: HeldFile, part: HeldFile, place: DatabasePlace, origin: SourceFacts) -> None:
    with restored.stream() as source, part.stream() as target:
        while chunk := source.read(_CHUNK_BYTES):
            write_all(target, chunk)
    set_mode(part.descriptor, origin.mode & 0o777, part.path)
    uid, gid = place.directory.owner() if origin.uid is None else (origin.uid, origin.gid)
    if os.geteuid() == 0 and uid is not None:
        change_owner(part.descriptor, uid, gid, part.path)
    os.fsync(part.descriptor)
