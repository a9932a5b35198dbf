"""History."""

import json
import os
import stat
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from backupd.errors import BackupdError, GenerationMissing, TargetRefused
from backupd.model import is_generation_id
from backupd.sqlite.database_files import SIDE_SUFFIXES
from backupd.sqlite.inspection import query_copy
from backupd.sqlite.swap_journal import KEPT, RECORD, is_kept, kept_order, part_path, read_small
from backupd.system.fs import fsync_directory, replace_durably

KEPT_FOR: Final = timedelta(days=30)  # what the next undo puts back stays for so long at least
# In the order of their removal: a record without its database would stand in the way of an undo, and a database without
# its WAL must never be put back.
_SUFFIXES: Final = (RECORD, "", *SIDE_SUFFIXES)


@dataclass(frozen=True, slots=True)
class KeptDatabase:
    """An old database that a restore to a database has kept, or what is left of one, at `path` and beside it.

    `since` is aware, UTC: the time in its name, or the last change of its files where that is later.
    """

    path: Path
    files: tuple[Path, ...]
    since: datetime
    size_bytes: int

    @property
    def holds_data(self) -> bool:
        """Whether there is more than the record of a restore, which is all that an online one leaves."""
        return any(path.suffix != RECORD for path in self.files)


def kept_files(target: Path) -> tuple[KeptDatabase, ...]:
    """Return all that restores to `target` (a real path) have kept, oldest first; nothing else. Raises OSError."""
    found: defaultdict[str, list[tuple[Path, os.stat_result]]] = defaultdict(list)
    for path in target.parent.iterdir():
        names = (path.name.removesuffix(suffix) for suffix in _SUFFIXES)
        name = next((name for name in names if is_kept(name, target.name)), None)
        if name is not None and stat.S_ISREG((state := path.lstat()).st_mode):  # a link is none of ours
            found[name].append((path, state))
    ordered = sorted(found, key=lambda name: kept_order(name, target.name))
    return tuple(_kept(target, name, found[name]) for name in ordered)


def remove_kept(kept: KeptDatabase) -> None:
    """Remove what was kept, durably; killed in the middle, what is left is found again. Raises OSError."""
    for suffix in _SUFFIXES:
        path = kept.path.with_name(f"{kept.path.name}{suffix}")
        if path in kept.files:
            path.unlink(missing_ok=True)
    fsync_directory(kept.path.parent)


def _kept(target: Path, name: str, files: list[tuple[Path, os.stat_result]]) -> KeptDatabase:
    changed_at = max(datetime.fromtimestamp(state.st_ctime, UTC) for _, state in files)
    time, _number = kept_order(name, target.name)
    try:
        named_at = datetime.strptime(time, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:  # a name that only looks like one of ours
        named_at = changed_at
    size_bytes = sum(state.st_size for _, state in files)
    paths = tuple(path for path, _ in files)
    return KeptDatabase(target.with_name(name), paths, max(named_at, changed_at), size_bytes)


_ASK_TIMEOUT_S = 30.0

Kind = Literal["restore", "undo", "redo"]


@dataclass(frozen=True, slots=True)
class RestoreRecord:
    """One restore: `generation` is what it put in place, or, when it took another one back, what that had put there.

    `before` says what holds the state from before it: the kept file, the generation `safety`, or nothing, since there
    was no database.
    """

    kind: Kind
    generation: str | None
    before: Literal["file", "generation", "nothing"]
    safety: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedRestore:
    """A restore that can be taken back, or cannot any more; `path` is where the old database is (or would be) kept."""

    path: Path
    record: RestoreRecord

    @property
    def restored_at(self) -> datetime:
        """When it was, by the clock of then."""
        stamp, _ = kept_order(self.path.name, self.path.name.partition(KEPT)[0])
        return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    @property
    def record_path(self) -> Path:
        """Where its record is."""
        return record_path(self.path)


@dataclass(frozen=True, slots=True)
class OnlineRestore:
    """An online restore that is at work: its record to be, under the name `kept`, and what it takes back, by its name.

    `schema_version` is that of the database before, which an online restore raises: so it tells whether a killed one
    took effect. None where it could not be asked.
    """

    kept: str
    record: RestoreRecord
    takes_back: str | None
    schema_version: int | None


_RECORD, _BEGUN = TypeAdapter(RestoreRecord), TypeAdapter(OnlineRestore)


def restore_history(target: Path) -> tuple[RecordedRestore, ...]:
    """Return the restores to `target`, oldest first. Raises OSError; TargetRefused for a record that is damaged."""
    return tuple(_entry(target.with_name(name)) for name in recorded_names(target))


def recorded_names(target: Path) -> list[str]:
    """Return the names by which restores to `target` kept what lay there, or recorded that alone, oldest first."""
    names = {path.name.removesuffix(RECORD) for path in target.parent.iterdir() if path.name.startswith(target.name)}
    return sorted((n for n in names if is_kept(n, target.name)), key=lambda name: kept_order(name, target.name))


def choose_undo(entries: Sequence[RecordedRestore], *, redo: bool) -> RecordedRestore:
    """Return what the next undo takes back: the newest restore that stands; with none left, the last undo.

    With `redo`: the last undo, unless something was restored since. Raises GenerationMissing.
    """
    standing = [entry for entry in entries if entry.record.kind != "undo"]
    undone = [entry for entry in entries if entry.record.kind == "undo"]
    if redo:
        last = max((at for at, entry in enumerate(entries) if entry.record.kind == "restore"), default=-1)
        undone = [entry for entry in entries[last + 1 :] if entry.record.kind == "undo"]
        standing = []
    if not standing and not undone:
        what = "no undo" if redo else "no restore"
        raise GenerationMissing(
            f"{what} is recorded beside this database: there is nothing to take back",
            "backupd list shows the generations that can be restored",
        )
    return (standing or undone)[-1]


def require_undoable(entry: RecordedRestore) -> None:
    """Refuse to go behind a restore whose state from before is gone, or was none. Raises TargetRefused."""
    what = f"the {entry.record.kind} at {entry.restored_at:%F %T} UTC"
    if entry.record.before == "nothing":
        raise TargetRefused(
            f"there was no database before {what}: taking it back would leave none",
            f"move the database away if that is meant; to take back an earlier restore, remove {entry.record_path}",
        )
    if entry.record.before == "file" and not os.path.lexists(entry.path):
        raise TargetRefused(
            f"{what} cannot be taken back: {entry.path} is gone",
            f"restore a generation; to take back an earlier restore, remove {entry.record_path}",
        )


def record_path(kept: Path) -> Path:
    """Return where the record of the restore is that keeps, or would keep, the old database as `kept`."""
    return kept.with_name(f"{kept.name}{RECORD}")


def write_record(kept: Path, record: RestoreRecord, target: Path) -> None:
    """Record a restore to `target`, durably. Raises OSError."""
    data = json.dumps(asdict(record)).encode() + b"\n"
    replace_durably(record_path(kept), data, temporary=part_path(target))


def new_kept_name(target: Path, now: datetime) -> str:
    """Name what a restore to `target` keeps by the time, after all that is there; a number tells two of one time apart.

    A clock that was set back names it by the time of the last one, else `--undo` would not find it to be the last.
    """
    last = recorded_names(target)[-1:]
    after = kept_order(last[0], target.name) if last else ("", 0)
    stamp, number = max(after, (f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}", 0))
    while True:
        number += 1
        name = f"{target.name}{KEPT}{stamp}" + (f"-{number}" if number > 1 else "")
        if not any(os.path.lexists(target.with_name(f"{name}{suffix}")) for suffix in ("", RECORD, *SIDE_SUFFIXES)):
            return name


def begin_online_restore(
    target: Path, record: RestoreRecord, takes_back: RecordedRestore | None, now: datetime
) -> OnlineRestore:
    """Record that an online restore is about to be done, durably. Raises OSError, TargetRefused."""
    name = takes_back.path.name if takes_back else None
    begun = OnlineRestore(new_kept_name(target, now), record, name, _schema_version(target))
    replace_durably(_begun_path(target), json.dumps(asdict(begun)).encode() + b"\n", temporary=part_path(target))
    return begun


def finish_online_restore(target: Path, begun: OnlineRestore, *, done: bool) -> None:
    """Record, durably, that an online restore is done, or forget it where it was not. Raises OSError."""
    if done:
        write_record(target.with_name(begun.kept), begun.record, target)
        if begun.takes_back is not None:
            record_path(target.with_name(begun.takes_back)).unlink(missing_ok=True)
            fsync_directory(target.parent)
    _begun_path(target).unlink(missing_ok=True)
    fsync_directory(target.parent)


def pending_online_restore(target: Path) -> OnlineRestore | None:
    """Return the online restore to `target` that is at work, or was killed. Raises TargetRefused, PermissionError."""
    path = _begun_path(target)
    try:
        begun = _BEGUN.validate_json(read_small(path))
    except FileNotFoundError:
        return None
    except PermissionError:
        raise
    except (ValidationError, OSError):
        begun = None
    names = [begun.kept, *([begun.takes_back] if begun.takes_back else [])] if begun else [""]
    if begun is None or not (_is_ours(begun.record) and all(is_kept(name, target.name) for name in names)):
        raise _damaged(path, f"see whether {target} holds what was restored online last")
    return begun


def took_effect(target: Path, begun: OnlineRestore) -> bool:
    """Tell whether a killed online restore did what it was for; so is assumed where nothing can be asked.

    SQLite's backup API raises the schema version of what it overwrites by one, in the same transaction.
    """
    now = _schema_version(target)
    return now is None or now != begun.schema_version


def _schema_version(target: Path) -> int | None:
    try:
        return int(query_copy(target, "PRAGMA schema_version", _ASK_TIMEOUT_S).answer or "")
    except (BackupdError, ValueError):
        return None


def _entry(kept: Path) -> RecordedRestore:
    path = record_path(kept)
    try:
        record = _RECORD.validate_json(read_small(path))
    except FileNotFoundError:
        return RecordedRestore(kept, RestoreRecord("restore", None, "file"))
    except PermissionError:
        raise
    except (ValidationError, OSError):
        record = None
    if record is None or not _is_ours(record):
        raise _damaged(path, f"remove it; {kept}, if it is there, is what lay there before that restore")
    return RecordedRestore(kept, record)


def _is_ours(record: RestoreRecord) -> bool:
    """Who may write to the app's directory might have written it: it names generations alone."""
    ids = (record.generation, record.safety)
    return all(each is None or is_generation_id(each) for each in ids) and (
        (record.before == "generation") == (record.safety is not None)
    )


def _damaged(path: Path, way_out: str) -> TargetRefused:
    return TargetRefused(f"{path} is damaged: it does not say which restore it records", way_out)


def _begun_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.restore-online")
