"""The files that restores leave beside a database: old databases that they kept, records, and parts of killed ones.

    tasks.db.pre-restore-20261125T031500Z        the database before a restore in place
    tasks.db.pre-restore-20261125T031500Z.json   the record of that restore; the only file of an online one
    .tasks.db.restore-online                     an online restore that is running, or was killed
    .tasks.db.restore                            the journal of a swap that is running, or was killed
    .tasks.db.restore-point                      a restore of several targets that is running, or was killed
    .tasks.db.0a1b2c3d.part                      a file that is to become the database, or one of these

They are beside the database, so that they are lost, moved and copied with it, whichever store a restore came from.
"""

import json
import re
import secrets
import stat
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from os import stat_result
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from backupd.errors import BackupdError, GenerationMissing, TargetRefused
from backupd.model import is_generation_id, is_point_id, is_source_name
from backupd.sqlite.database_files import SIDE_SUFFIXES, DatabasePlace
from backupd.sqlite.inspection import query_copy
from backupd.system.directory import Directory
from backupd.system.held_file import HeldFile
from backupd.system.small_file import UnexpectedFile

KEPT: Final = ".pre-restore-"
KEPT_FOR: Final = timedelta(days=30)  # the minimum age at which the database that the next undo needs is removed
_RECORD: Final = ".json"
# In the order of removal: a record without its database would block an undo, and a database without its WAL must never
# be put back.
_SUFFIXES: Final = (_RECORD, "", *SIDE_SUFFIXES)
_KEPT_NAME: Final = re.compile(r"(\d{8}T\d{6}Z)(-[1-9]\d{0,3})?", re.ASCII)
_MOST_NUMBER: Final = 9999
_PART_NAME: Final = re.compile(r"[0-9a-f]{8}\.part")
_TIME: Final = "%Y%m%dT%H%M%SZ"
_MAX_BYTES: Final = 1 << 16
_QUERY_TIMEOUT_S: Final = 30.0

Kind = Literal["restore", "undo", "redo"]
Record = TypeVar("Record")


def is_kept(name: str, target: str) -> bool:
    """Return whether `name` is the name of an old database that a restore to `target` kept."""
    found = _KEPT_NAME.fullmatch(name.removeprefix(f"{target}{KEPT}")) if name.startswith(f"{target}{KEPT}") else None
    with suppress(ValueError):  # not a time: another program made the name
        return found is not None and bool(_parse_time(found[1]))
    return False


def _kept_order(name: str, target: str) -> tuple[str, int]:
    """Return the sort key of a kept database of `target`: the time in its name, then the number after it."""
    time, _, number = name.removeprefix(f"{target}{KEPT}").partition("-")
    return time, int(number or 1)


def new_part_name(target: str) -> str:
    """Return a new name for a file that is to become `target`."""
    return f".{target}.{secrets.token_hex(4)}.part"


def is_part(name: str, target: str) -> bool:
    """Return whether `name` is the name of a file that is to become `target`."""
    return name.startswith(f".{target}.") and _PART_NAME.fullmatch(name.removeprefix(f".{target}.")) is not None


def is_part_file(name: str, target: str) -> bool:
    """Return whether `name` is the name of a file that is to become `target`, or of a side file of one."""
    return any(is_part(name.removesuffix(suffix), target) for suffix in ("", *SIDE_SUFFIXES))


def swap_journal_name(target: str) -> str:
    """Return the name of the journal of a swap of `target`."""
    return f".{target}.restore"


def point_journal_name(target: str) -> str:
    """Return the name of the journal of a restore of several targets beside the one that is `target`."""
    return f".{target}.restore-point"


def record_name(kept: str) -> str:
    """Return the name of the record of the restore that keeps the old database as `kept`."""
    return f"{kept}{_RECORD}"


def read_record(
    directory: Directory,
    name: str,
    adapter: TypeAdapter[Record],
    is_valid: Callable[[Record], bool],
    damaged: TargetRefused,
    max_bytes: int = _MAX_BYTES,
) -> Record | None:
    """Read the record `name` in the directory of a target: other users may have replaced it; None without it.

    Raises `damaged` if it is not valid or no regular file, and PermissionError, which concerns the directory.
    """
    try:
        record = adapter.validate_json(directory.read(name, max_bytes))
    except FileNotFoundError:
        return None
    except PermissionError:
        raise
    except UnexpectedFile as error:
        raise TargetRefused(f"{damaged.message}; it is {error.strerror}", damaged.hint) from error
    except (ValidationError, OSError):
        raise damaged from None
    if not is_valid(record):
        raise damaged
    return record


def write_record(place: DatabasePlace, name: str, record: Any) -> None:  # noqa: ANN401 - any dataclass
    """Write the `record` of a restore to the database at `place`, durably. Raises OSError."""
    place.directory.replace(name, json.dumps(asdict(record)).encode() + b"\n", temporary=new_part_name(place.name))


@dataclass(frozen=True, slots=True)
class KeptDatabase:
    """An old database that a restore has kept at `path`, with its side files and the record of that restore.

    `since` is aware, UTC: the time in its name, or the last change of its files where that is later.
    """

    path: Path
    files: tuple[Path, ...]
    since: datetime
    size_bytes: int

    @property
    def holds_data(self) -> bool:
        """Whether there is more than the record, which is all that an online restore leaves."""
        return any(path.suffix != _RECORD for path in self.files)


def kept_files(place: DatabasePlace) -> tuple[KeptDatabase, ...]:
    """Return the old databases that restores to the one at `place` have kept, oldest first. Raises OSError."""
    found: defaultdict[str, list[tuple[Path, stat_result]]] = defaultdict(list)
    for file_name in place.names():
        names = (file_name.removesuffix(suffix) for suffix in _SUFFIXES)
        name = next((name for name in names if is_kept(name, place.name)), None)
        state = place.directory.stat(file_name) if name is not None else None
        if name is not None and state is not None and stat.S_ISREG(state.st_mode):  # backupd creates no links here
            found[name].append((place.path_of(file_name), state))
    ordered = sorted(found, key=lambda name: _kept_order(name, place.name))
    return tuple(_kept(place, name, found[name]) for name in ordered)


def remove_kept(kept: KeptDatabase, place: DatabasePlace) -> None:
    """Remove an old database, durably; after a kill, `kept_files` finds the rest. Raises OSError."""
    names = {path.name for path in kept.files}
    for suffix in _SUFFIXES:
        if (name := f"{kept.path.name}{suffix}") in names:
            place.directory.unlink(name)
    place.directory.fsync()


def _kept(place: DatabasePlace, name: str, files: list[tuple[Path, stat_result]]) -> KeptDatabase:
    changed = max(datetime.fromtimestamp(state.st_ctime, UTC) for _, state in files)
    since = max(changed, _parse_time(_kept_order(name, place.name)[0]))
    size_bytes = sum(state.st_size for _, state in files)
    return KeptDatabase(place.path_of(name), tuple(path for path, _ in files), since, size_bytes)


def _parse_time(text: str) -> datetime:
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PointRestore:
    """A restore of several sources as one, or an undo of that: what each of its records says."""

    point: str  # its id
    run: str  # tells two restores of one point apart
    sources: tuple[str, ...]  # in their order in the point

    def is_valid(self) -> bool:
        """Return whether point and sources are names."""
        return is_point_id(self.point) and all(map(is_source_name, self.sources))


@dataclass(frozen=True, slots=True)
class RestoreRecord:
    """One restore of `generation`; an undo or redo has the generation of the restore that it undid.

    `before` tells where the previous state is: in the kept file, in the generation `safety`, or nowhere, since no
    database was there.
    """

    kind: Kind
    generation: str | None
    before: Literal["file", "generation", "nothing"]
    safety: str | None = None
    together: PointRestore | None = None  # the restore of a point that it was a part of

    def is_valid(self) -> bool:
        """Return whether it names generations only: other users may be able to write to the directory."""
        ids = (self.generation, self.safety)
        return (
            all(each is None or is_generation_id(each) for each in ids)
            and (self.before == "generation") == (self.safety is not None)
            and (self.together is None or self.together.is_valid())
        )


@dataclass(frozen=True, slots=True)
class RecordedRestore:
    """A restore and the `path` at which it kept the old database, which may be gone."""

    path: Path
    record: RestoreRecord

    @property
    def restored_at(self) -> datetime:
        """The time of the restore, by the clock at that time."""
        return _parse_time(_kept_order(self.path.name, self.path.name.partition(KEPT)[0])[0])


@dataclass(frozen=True, slots=True)
class OnlineRestore:
    """An online restore that is running: its future record, to be named `kept`, and the name of what it undoes.

    `schema_version` is that of the database before it. An online restore changes it, which shows whether a killed one
    took effect. None where it could not be read.
    """

    kept: str
    record: RestoreRecord
    takes_back: str | None
    schema_version: int | None


_RECORDS, _ONLINE = TypeAdapter(RestoreRecord), TypeAdapter(OnlineRestore)


def restore_history(place: DatabasePlace) -> tuple[RecordedRestore, ...]:
    """Return the restores to the database at `place`, oldest first.

    Raises OSError, TargetRefused for a damaged record.
    """
    return tuple(_recorded(place, name) for name in recorded_names(place))


def recorded_names(place: DatabasePlace) -> list[str]:
    """Return the names under which restores kept the old database or only a record, oldest first. Raises OSError."""
    names = {name.removesuffix(_RECORD) for name in place.names()}
    return sorted((n for n in names if is_kept(n, place.name)), key=lambda name: _kept_order(name, place.name))


def _recorded(place: DatabasePlace, kept: str) -> RecordedRestore:
    name, path = record_name(kept), place.path_of(kept)
    damaged = _damaged(
        place.path_of(name), f"remove it; {path}, if it exists, is the database from before that restore"
    )
    record = read_record(place.directory, name, _RECORDS, RestoreRecord.is_valid, damaged)
    return RecordedRestore(path, record or RestoreRecord("restore", None, "file"))


def choose_undo(entries: Sequence[RecordedRestore], *, redo: bool) -> RecordedRestore:
    """Return what the next undo undoes: the newest restore that was not undone; with none left, the last undo.

    With `redo`: the last undo, unless a restore followed it. Raises GenerationMissing.
    """
    if redo:
        last = max((at for at, entry in enumerate(entries) if entry.record.kind == "restore"), default=-1)
        found = [entry for entry in entries[last + 1 :] if entry.record.kind == "undo"]
    else:
        found = [entry for entry in entries if entry.record.kind != "undo"] or list(entries)
    if not found:
        raise GenerationMissing(
            f"no {'undo' if redo else 'restore'} is recorded beside this database: nothing can be undone",
            "backupd list shows the generations that can be restored",
        )
    return found[-1]


def require_undoable(entry: RecordedRestore, place: DatabasePlace) -> None:
    """Refuse to undo a restore whose previous database is gone, or never existed. Raises TargetRefused."""
    what = f"the {entry.record.kind} at {entry.restored_at:%F %T} UTC"
    earlier = f"to undo an earlier restore, remove {place.path_of(record_name(entry.path.name))}"
    if entry.record.before == "nothing":
        raise TargetRefused(
            f"there was no database before {what}: undoing it would leave none",
            f"to have no database, move it away; {earlier}",
        )
    if entry.record.before == "file" and place.directory.stat(entry.path.name) is None:
        raise TargetRefused(f"{what} cannot be undone: {entry.path} is gone", f"restore a generation; {earlier}")


def new_kept_name(place: DatabasePlace, now: datetime) -> str:
    """Return a new name for the old database that a restore keeps: the time, and a number if that is taken.

    It sorts after all existing ones, also when the clock was set back: `--undo` has to find it to be the last. Raises
    TargetRefused where no name is left after one that somebody made.
    """
    last = recorded_names(place)[-1:]
    after = _kept_order(last[0], place.name) if last else ("", 0)
    stamp, number = max(after, (now.astimezone(UTC).strftime(_TIME), 0))
    while True:
        number += 1
        if number > _MOST_NUMBER:
            used_up = place.path_of(f"{place.name}{KEPT}{stamp}-{_MOST_NUMBER}")
            raise TargetRefused(
                f"no name is left for the old database after {used_up}",
                "no restore made that file: find out which process did, and remove it",
            )
        name = f"{place.name}{KEPT}{stamp}" + (f"-{number}" if number > 1 else "")
        if not any(place.directory.stat(f"{name}{suffix}") for suffix in _SUFFIXES):
            return name


def begin_online_restore(
    place: DatabasePlace, record: RestoreRecord, takes_back: RecordedRestore | None, now: datetime
) -> OnlineRestore:
    """Record, durably, that an online restore begins. Raises OSError, TargetRefused."""
    name = takes_back.path.name if takes_back else None
    started = OnlineRestore(new_kept_name(place, now), record, name, _schema_version(place))
    write_record(place, _online_name(place), started)
    return started


def finish_online_restore(place: DatabasePlace, started: OnlineRestore, *, done: bool) -> None:
    """Record, durably, that an online restore was done, or remove the record of its beginning. Raises OSError."""
    if done:
        write_record(place, record_name(started.kept), started.record)
        if started.takes_back is not None:
            place.directory.unlink(record_name(started.takes_back))
            place.directory.fsync()
    place.directory.unlink(_online_name(place))
    place.directory.fsync()


def pending_online_restore(place: DatabasePlace) -> OnlineRestore | None:
    """Return the online restore that is running, or was killed. Raises TargetRefused, PermissionError."""

    def is_valid(started: OnlineRestore) -> bool:
        names = (started.kept, *([] if started.takes_back is None else [started.takes_back]))
        return started.record.is_valid() and all(is_kept(name, place.name) for name in names)

    name = _online_name(place)
    hint = f"check whether {place.path} holds the database of the last online restore, and remove it"
    return read_record(place.directory, name, _ONLINE, is_valid, _damaged(place.path_of(name), hint))


def took_effect(place: DatabasePlace, started: OnlineRestore) -> bool:
    """Return whether a killed online restore changed the database; True where that cannot be determined.

    SQLite's backup API increments the schema version of the target in the same transaction.
    """
    now = _schema_version(place)
    return now is None or now != started.schema_version


def _schema_version(place: DatabasePlace) -> int | None:
    try:
        database = HeldFile.open(place.directory, place.name)
        return int(query_copy(database, "PRAGMA schema_version", _QUERY_TIMEOUT_S).answer or "")
    except (BackupdError, OSError, ValueError):
        return None


def _damaged(path: Path, hint: str) -> TargetRefused:
    return TargetRefused(f"{path} is damaged: it does not describe a restore", hint)


def _online_name(place: DatabasePlace) -> str:
    return f".{place.name}.restore-online"
