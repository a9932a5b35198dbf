"""What a store keeps in `.backupd` beside its generations.

It is in files, not in the catalog: a lost catalog must not end a hold or a pin.

.backupd/holds/SOURCE.json        hold on a source: nothing of it is pruned
        /holds/SOURCE.accepted    the next backup of a held source is published although it is unreadable
        /pins/ID.json             pin on a generation: no store prunes it
        /damaged/ID               mark of a damaged generation: why, and the digests of contents that it lacks
        /sweeps/STORE             contents of files in that store are to be swept
        /quarantine/SOURCE/NAME/  damaged copies, with what was found
        /identity                 16 hex digits, made once: the `store` of each manifest of this store
        /adopted                  lost stores whose generations count as own, a line each: identity, and until when
"""

import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from backupd.model import STORE_IDENTITY, Hold, Pin, is_generation_id
from backupd.stores.contract import MayRead, anybody, is_digest
from backupd.system.directory import Directory
from backupd.system.file_lock import file_lock
from backupd.system.held_file import HeldFile
from backupd.system.small_file import UnexpectedFile

OWN_IDENTITY: Final = "identity"
_ADOPTED: Final = "adopted"
_LOCK_S: Final = 60.0  # a holder needs no second
_UNREADABLE: Final = (ValueError, KeyError, TypeError, RecursionError, OSError)
_UNKNOWN: Final = datetime.fromtimestamp(0, UTC)


class _Kept:
    """Facts in the files of a directory in `hidden`, which is made with the first."""

    NAME = ""

    def __init__(self, hidden: Path) -> None:
        self._hidden = hidden

    def _path(self, name: str) -> Path:
        return self._hidden / self.NAME / name

    @contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[Directory]:
        """Open the directory. Raises OSError."""
        with (
            Directory.open(self._hidden.parent) as base,
            base.child(self._hidden.name) as hidden,
            hidden.make(self.NAME) if make else hidden.child(self.NAME) as directory,
        ):
            yield directory

    def _read(self, name: str) -> bytes:
        with self._opened() as directory:
            return directory.read(name)

    def _names(self) -> list[str]:
        """Return the names in the directory, none where it is missing. Raises OSError."""
        try:
            with self._opened() as directory:
                return sorted(directory.names())
        except FileNotFoundError:
            return []

    def _has(self, name: str) -> bool:
        try:
            with self._opened() as directory:
                return directory.stat(name) is not None
        except FileNotFoundError:
            return False

    def _write(self, name: str, facts: Mapping[str, Any]) -> None:
        with self._opened(make=True) as directory:
            text = json.dumps(facts, indent=2) + "\n"
            directory.replace(name, text.encode(), temporary=f"{name.removesuffix('.json')}.new")

    def _add(self, name: str, text: str) -> None:
        """Write a new file durably."""
        with self._opened(make=True) as directory:
            directory.write(name, text.encode(errors="backslashreplace"))
            directory.fsync()

    def _remove(self, name: str) -> bool:
        """Remove a file durably; False when it does not exist."""
        try:
            with self._opened() as directory:
                if directory.stat(name) is None:  # on a read-only disk not even a missing file can be removed
                    return False
                directory.unlink(name)
                directory.fsync()
                return True
        except FileNotFoundError:
            return False

    def _modified_at(self, name: str) -> datetime:
        """Return the time of the last change of a file that cannot be read, 1970 where not even that is known."""
        with suppress(OSError), self._opened() as directory:
            if (state := directory.stat(name)) is not None:
                return datetime.fromtimestamp(state.st_mtime, UTC)
        return _UNKNOWN


class Holds(_Kept):
    """The holds of a store, one JSON file per source."""

    NAME = "holds"

    def get(self, source: str) -> Hold | None:
        """Return the hold on `source`, None when there is none. An unreadable file counts as a hold."""
        name = f"{source}.json"
        try:
            facts = json.loads(self._read(name))
            facts["since"] = datetime.fromisoformat(facts["since"])
            return Hold(**{**facts, "source": source})
        except FileNotFoundError:
            return None
        except _UNREADABLE as error:
            return Hold(source, "corrupt", self._modified_at(name), unreadable(self._path(name), error), None)

    def set(self, hold: Hold) -> Hold:
        """Hold a source; an older hold on it keeps its beginning and its reference. Returns the hold in force."""
        old = self.get(hold.source)
        if old is not None:
            hold = replace(hold, since=old.since, reference=old.reference or hold.reference)
        self._write(f"{hold.source}.json", asdict(hold) | {"since": hold.since.isoformat()})
        return hold

    def accept(self, source: str) -> None:
        """Allow the next copy of `source` to be published although it is unreadable, until the next `release`."""
        self._add(f"{source}.accepted", "")

    def accepted(self, source: str) -> bool:
        """Tell whether `accept` was called since the last `release`."""
        return self._has(f"{source}.accepted")

    def release(self, source: str) -> bool:
        """End the hold on `source` and any acceptance; False when there was no hold."""
        self._remove(f"{source}.accepted")
        return self._remove(f"{source}.json")


class Pins(_Kept):
    """The pins of a store, one JSON file per generation. Change them only with the store locked.

    A pin remains when this store loses the generation: a replica may have it.
    """

    NAME = "pins"

    def all(self) -> Mapping[str, Pin]:
        """Return every pin by generation, also expired and unreadable ones, until they are released. Raises OSError."""
        ids = (name.removesuffix(".json") for name in self._names() if name.endswith(".json"))
        found = (self.get(generation_id) for generation_id in ids if is_generation_id(generation_id))
        return {pin.generation: pin for pin in found if pin is not None}

    def get(self, generation_id: str) -> Pin | None:
        """Return the pin of one generation, as `all` does. Raises OSError."""
        name = f"{generation_id}.json"
        try:
            return _decoded_pin(generation_id, self._read(name))
        except FileNotFoundError:
            return None
        except _UNREADABLE as error:
            return Pin(generation_id, self._modified_at(name), None, unreadable(self._path(name), error))

    def set(self, pin: Pin) -> Pin:
        """Pin a generation, durably; a pin in force is never shortened, and keeps its beginning and its label.

        Returns the pin in force. Raises ValueError when its generation is not a generation id, OSError.
        """
        if not is_generation_id(pin.generation):
            raise ValueError(f"{pin.generation[:120]!r} is not a generation id")
        old = self.get(pin.generation)
        if old is not None and old.holds(pin.since):
            pin = _merged(old, pin)
        with self._opened(make=True) as directory:
            for partial in directory.names():
                if partial.endswith(".new"):  # of a run that was killed
                    directory.unlink(partial)
        facts = asdict(pin) | {"since": pin.since.isoformat(), "until": pin.until.isoformat() if pin.until else None}
        del facts["generation"]  # it is the name of the file
        self._write(f"{pin.generation}.json", facts)
        return pin

    def release(self, generation_id: str) -> bool:
        """Remove the pin of a generation; False when there was none. Raises OSError."""
        return is_generation_id(generation_id) and self._remove(f"{generation_id}.json")


def unreadable(path: Path, error: BaseException) -> str:
    """Return that the file at `path` cannot be read, and why where somebody put something else there."""
    return f"{path} cannot be read" + (f": it is {error.strerror}" if isinstance(error, UnexpectedFile) else "")


def _merged(old: Pin, new: Pin) -> Pin:
    """Return the pin of two that lasts longer (the new one when they are equal)."""
    old_lasts_longer = new.until is not None and (old.until is None or old.until > new.until)
    return replace(old if old_lasts_longer else new, since=old.since, label=new.label or old.label)


def _decoded_pin(generation_id: str, encoded: bytes) -> Pin:
    """Return the pin in a file. Raises ValueError, KeyError, TypeError, RecursionError when it is not one."""
    facts = json.loads(encoded)
    reason, label = facts["reason"], facts["label"]
    since = datetime.fromisoformat(facts["since"])
    until = None if facts["until"] is None else datetime.fromisoformat(facts["until"])
    if not (isinstance(reason, str) and isinstance(label, str)):
        raise TypeError("reason and label must be text")
    if since.tzinfo is None or (until is not None and until.tzinfo is None):
        raise ValueError("times must have a zone")
    return Pin(generation_id, since, until, reason, label)


class DamageMarks(_Kept):
    """The marks of damaged generations, one file each."""

    NAME = "damaged"

    def ids(self) -> frozenset[str]:
        """Return the ids that are marked. Raises OSError."""
        return frozenset(filter(is_generation_id, self._names()))

    def add(self, generation: str, why: str, contents: Iterable[str] = ()) -> None:
        """Mark `generation`, durably, and note the digests of `contents` that it lacks. Raises OSError."""
        lines = [why, *contents]
        if len(lines) > 1 or not self._has(generation):
            with self._opened(make=True) as directory:
                text = "".join(f"{line}\n" for line in lines)
                directory.replace(generation, text.encode(errors="backslashreplace"), temporary=f"{generation}.new")

    def contents(self, generation: str) -> tuple[str, ...]:
        """Return the digests of contents that were missing or damaged, none where they are not known."""
        try:
            _why, *lines = self._read(generation).decode(errors="replace").splitlines()
        except (OSError, ValueError):
            return ()
        return tuple(filter(is_digest, lines))

    def clear(self, generation: str) -> None:
        """Remove the mark: the generation was verified, or is gone. Raises OSError."""
        self._remove(generation)


class DueSweeps(_Kept):
    """The stores whose contents of files are to be swept, one file each."""

    NAME = "sweeps"

    def due(self, store: str) -> bool:
        """Tell whether a sweep is due. Raises OSError."""
        return self._has(store)

    def add(self, store: str) -> None:
        """Note that a sweep is due, durably. Raises OSError."""
        if not self._has(store):
            self._add(store, "")

    def clear(self, store: str) -> None:
        """Note that it is done. Raises OSError."""
        self._remove(store)


_SNAPSHOT: Final = "snapshot.sqlite3"


def _directories_in(directory: Directory) -> list[str]:
    states = ((name, directory.stat(name)) for name in sorted(directory.names()))
    return [name for name, state in states if state is not None and stat.S_ISDIR(state.st_mode)]


@dataclass(frozen=True, slots=True)
class QuarantinedCopy:
    """A damaged copy and its findings in `directory`, quarantined `since` (aware, UTC)."""

    name: str
    directory: Path
    since: datetime
    size_bytes: int


class Quarantine(_Kept):
    """Damaged copies, for inspection: of each source the first, nearest to the cause, and the last."""

    NAME = "quarantine"

    def copies(self) -> tuple[QuarantinedCopy, ...]:
        """Return all damaged copies, by source and age. Raises OSError."""
        found = list[QuarantinedCopy]()
        with suppress(FileNotFoundError), self._opened() as directory:
            for source in _directories_in(directory):
                with directory.child(source) as home:
                    found += [self._copy(home, source, name) for name in _directories_in(home)]
        return tuple(found)

    def _copy(self, home: Directory, source: str, name: str) -> QuarantinedCopy:
        with home.child(name) as place:
            states = (place.stat(file) for file in place.names())
            size_bytes = sum(state.st_size for state in states if state is not None)
            since = datetime.fromtimestamp(os.fstat(place.descriptor).st_mtime, UTC)
        return QuarantinedCopy(name, self._path(source) / name, since, size_bytes)

    def add(
        self, source: str, name: str, snapshot: HeldFile, findings: Iterable[str], may_read: MayRead = anybody
    ) -> Path:
        """Move the damaged `snapshot` here as `name`, with its findings; returns its new path.

        As root, it gets the owner of the store where that user `may_read` it. Raises OSError.
        """
        with self._opened(make=True) as directory, directory.make(source) as home:
            for old in _directories_in(home)[1:]:
                home.remove(old)
            home.remove(name)
            with home.make(name) as place:
                snapshot.move(place, _SNAPSHOT)
                place.write("findings.txt", "".join(f"{line}\n" for line in findings).encode())
                if may_read(home.owner()[0]):
                    home.give_owner(snapshot.descriptor)
                place.fsync()
        return self._path(source) / name / _SNAPSHOT

    def remove(self, copy: QuarantinedCopy) -> None:
        """Remove one damaged copy, durably. Raises OSError."""
        with self._opened() as directory, directory.child(copy.directory.parent.name) as home:
            home.remove(copy.name)
            home.fsync()


class Identities:
    """The identity of the store whose hidden directory is `hidden`, and those that it has adopted."""

    def __init__(self, hidden: Path) -> None:
        self._hidden = hidden
        self._lock = hidden / f"{OWN_IDENTITY}.lock"

    def own(self) -> str | None:
        """Return the identity of this store, None where it has none yet or its file is damaged. Raises OSError."""
        name = next(iter(self._lines(OWN_IDENTITY)), "")
        return name if re.fullmatch(STORE_IDENTITY, name, re.ASCII) else None

    def ensure(self, recover: Callable[[], str | None]) -> str:
        """Return the identity of this store; where it has none, record the one that `recover` finds, else a new one.

        Of several processes at the same time, one records it and the others return what it recorded. Raises LockHeld,
        OSError.
        """
        if own := self.own():
            return own
        with file_lock(self._lock, "identity", timeout_s=_LOCK_S):
            if own := self.own():
                return own
            identity = recover() or secrets.token_hex(8)
            self._replace(OWN_IDENTITY, f"{identity}\n")
            return identity

    def adopted(self) -> Mapping[str, datetime]:
        """Return the times up to which generations of other stores count, by their identities. Raises OSError."""
        found: dict[str, datetime] = {}
        for line in self._lines(_ADOPTED):
            identity, _, time = line.partition(" ")
            with suppress(ValueError):  # an unreadable line
                until = datetime.fromisoformat(time)
                if until.tzinfo and re.fullmatch(STORE_IDENTITY, identity, re.ASCII):
                    found[identity] = max(until, found.get(identity, until))
        return found

    def adopt(self, until: Mapping[str, datetime]) -> None:
        """Count the generations that these stores made up to a time (aware) as own, durably.

        Raises LockHeld, OSError.
        """
        with file_lock(self._lock, "identity", timeout_s=_LOCK_S):
            known = dict(self.adopted())
            for identity, time in until.items():
                known[identity] = max(time, known.get(identity, time))
            lines = (f"{identity} {time.isoformat()}\n" for identity, time in sorted(known.items()))
            self._replace(_ADOPTED, "".join(lines))

    @contextmanager
    def _opened(self) -> Iterator[Directory]:
        with Directory.open(self._hidden.parent) as base, base.child(self._hidden.name) as hidden:
            yield hidden

    def _replace(self, name: str, text: str) -> None:
        with self._opened() as hidden:
            hidden.replace(name, text.encode(), temporary=f"{name}.new")

    def _lines(self, name: str) -> list[str]:
        try:
            with self._opened() as hidden:
                return hidden.read(name).decode(errors="replace").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return []
