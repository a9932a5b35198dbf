"""What a store keeps in `.backupd` beside its generations.

It is in files, not in the catalog: a lost catalog must not end a hold or a pin.

.backupd/holds/SOURCE.json        hold on a source: nothing of it is pruned
        /holds/SOURCE.accepted    the next backup of a held source is published although it is unreadable
        /pins/ID.json             pin on a generation: no store prunes it
        /damaged/ID               mark of a damaged generation
        /quarantine/SOURCE/NAME/  damaged copies, with what was found
        /identity                 16 hex digits, made once: the `store` of each manifest of this store
        /adopted                  lost stores whose generations count as own, a line each: identity, and until when
"""

import json
import math
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from backupd.model import STORE_IDENTITY, Hold, Pin, is_generation_id
from backupd.system.file_lock import file_lock
from backupd.system.fs import fsync_directory, inherit_owner, replace_durably, write_durably

OWN_IDENTITY: Final = "identity"
_UNREADABLE: Final = (ValueError, KeyError, TypeError, RecursionError, OSError)


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(mode=0o700)
        inherit_owner(directory.parent, directory)
        fsync_directory(directory.parent)


def _replace(path: Path, text: str) -> None:
    replace_durably(path, text.encode(), temporary=path.with_suffix(".new"))


def _add(path: Path, text: str) -> None:
    """Write a new file durably."""
    _make_directory(path.parent)
    write_durably(path, text.encode(errors="backslashreplace"))
    fsync_directory(path.parent)


def _remove_durably(path: Path) -> bool:
    """Remove a file; False when it does not exist."""
    if not path.exists():  # on a read-only disk not even a missing file can be removed
        return False
    path.unlink(missing_ok=True)
    fsync_directory(path.parent)
    return True


def _modified_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.lstat().st_mtime, UTC)


class _Kept:
    """Facts in the files of `directory`, which is made with the first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"

    def _write(self, name: str, facts: Mapping[str, Any]) -> None:
        _make_directory(self._directory)
        _replace(self._path(name), json.dumps(facts, indent=2) + "\n")


class Holds(_Kept):
    """The holds of a store, one JSON file per source."""

    def get(self, source: str) -> Hold | None:
        """Return the hold on `source`, None when there is none. An unreadable file counts as a hold."""
        path = self._path(source)
        try:
            facts = json.loads(path.read_bytes())
            facts["since"] = datetime.fromisoformat(facts["since"])
            return Hold(**{**facts, "source": source})
        except FileNotFoundError:
            return None
        except _UNREADABLE:
            return Hold(source, "corrupt", _modified_at(path), f"{path} cannot be read", None)

    def set(self, hold: Hold) -> Hold:
        """Hold a source; an older hold on it keeps its beginning and its reference. Returns the hold in force."""
        old = self.get(hold.source)
        if old is not None:
            hold = replace(hold, since=old.since, reference=old.reference or hold.reference)
        self._write(hold.source, asdict(hold) | {"since": hold.since.isoformat()})
        return hold

    def accept(self, source: str) -> None:
        """Allow the next copy of `source` to be published although it is unreadable, until the next `release`."""
        _add(self._acceptance(source), "")

    def accepted(self, source: str) -> bool:
        """Tell whether `accept` was called since the last `release`."""
        return self._acceptance(source).exists()

    def release(self, source: str) -> bool:
        """End the hold on `source` and any acceptance; False when there was no hold."""
        self._acceptance(source).unlink(missing_ok=True)
        return _remove_durably(self._path(source))

    def _acceptance(self, source: str) -> Path:
        return self._directory / f"{source}.accepted"


class Pins(_Kept):
    """The pins of a store, one JSON file per generation. Change them only with the store locked.

    A pin remains when this store loses the generation: a replica may have it.
    """

    def all(self) -> Mapping[str, Pin]:
        """Return every pin by generation, also expired and unreadable ones, until they are released. Raises OSError."""
        try:
            names = sorted(path.name for path in self._directory.iterdir())
        except FileNotFoundError:
            if self._directory.is_symlink():  # a dangling link: the pins are unknown
                raise
            return {}
        ids = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        found = (self.get(generation_id) for generation_id in ids if is_generation_id(generation_id))
        return {pin.generation: pin for pin in found if pin is not None}

    def get(self, generation_id: str) -> Pin | None:
        """Return the pin of one generation, as `all` does. Raises OSError."""
        path = self._path(generation_id)
        try:
            return _decoded_pin(generation_id, path.read_bytes())
        except FileNotFoundError:
            return None
        except _UNREADABLE:
            return Pin(generation_id, _modified_at(path), None, f"{path} cannot be read")

    def set(self, pin: Pin) -> Pin:
        """Pin a generation, durably; a pin in force is never shortened, and keeps its beginning and its label.

        Returns the pin in force. Raises ValueError when its generation is not a generation id, OSError.
        """
        if not is_generation_id(pin.generation):
            raise ValueError(f"{pin.generation[:120]!r} is not a generation id")
        old = self.get(pin.generation)
        if old is not None and old.holds(pin.since):
            pin = _merged(old, pin)
        for partial in self._directory.glob("*.new"):  # of a run that was killed
            partial.unlink()
        facts = asdict(pin) | {"since": pin.since.isoformat(), "until": pin.until.isoformat() if pin.until else None}
        del facts["generation"]  # it is the name of the file
        self._write(pin.generation, facts)
        return pin

    def release(self, generation_id: str) -> bool:
        """Remove the pin of a generation; False when there was none. Raises OSError."""
        return is_generation_id(generation_id) and _remove_durably(self._path(generation_id))


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

    def ids(self) -> frozenset[str]:
        """Return the ids that are marked. Raises OSError."""
        try:
            return frozenset(path.name for path in self._directory.iterdir() if is_generation_id(path.name))
        except FileNotFoundError:
            return frozenset()

    def add(self, generation: str, why: str) -> None:
        """Mark `generation`, durably. Raises OSError."""
        path = self._directory / generation
        if not path.exists():
            _add(path, f"{why}\n")

    def clear(self, generation: str) -> None:
        """Remove the mark: the generation was verified, or is gone. Raises OSError."""
        _remove_durably(self._directory / generation)


@dataclass(frozen=True, slots=True)
class QuarantinedCopy:
    """A damaged copy and its findings in `directory`, quarantined `since` (aware, UTC)."""

    name: str
    directory: Path
    since: datetime
    size_bytes: int


class Quarantine(_Kept):
    """Damaged copies, for inspection: of each source the first, nearest to the cause, and the last."""

    def copies(self) -> tuple[QuarantinedCopy, ...]:
        """Return all damaged copies, by source and age. Raises OSError."""
        found = sorted(path for path in self._directory.glob("*/*") if path.is_dir() and not path.is_symlink())
        return tuple(
            QuarantinedCopy(path.name, path, _modified_at(path), sum(file.lstat().st_size for file in path.iterdir()))
            for path in found
        )

    def add(self, source: str, name: str, snapshot: Path, findings: Iterable[str]) -> Path:
        """Move the damaged `snapshot` here as `name`, with its findings; returns its new path."""
        home = self._directory / source
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self._directory, home):
            inherit_owner(path.parent, path)
        for old in sorted(path for path in home.iterdir() if path.is_dir())[1:]:
            shutil.rmtree(old)
        directory = home / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        inherit_owner(home, directory)
        target = directory / "snapshot.sqlite3"
        snapshot.rename(target)
        write_durably(directory / "findings.txt", "".join(f"{line}\n" for line in findings).encode())
        inherit_owner(home, target)
        fsync_directory(directory)
        return target

    def remove(self, copy: QuarantinedCopy) -> None:
        """Remove one damaged copy, durably. Raises OSError."""
        shutil.rmtree(copy.directory)
        fsync_directory(copy.directory.parent)


class Identities:
    """The identity of the store whose hidden directory is `directory`, and those that it has adopted."""

    def __init__(self, directory: Path) -> None:
        self._own, self._adopted = directory / OWN_IDENTITY, directory / "adopted"
        self._lock = directory / "identity.lock"

    def own(self) -> str | None:
        """Return the identity of this store, None where it has none yet or its file is damaged. Raises OSError."""
        name = next(iter(self._lines(self._own)), "")
        return name if re.fullmatch(STORE_IDENTITY, name, re.ASCII) else None

    def ensure(self, recover: Callable[[], str | None]) -> str:
        """Return the identity of this store; where it has none, record the one that `recover` finds, else a new one.

        Of several processes at the same time, one records it and the others return what it recorded. Raises OSError.
        """
        if own := self.own():
            return own
        with file_lock(self._lock, "identity", timeout_s=math.inf):
            if own := self.own():
                return own
            identity = recover() or secrets.token_hex(8)
            _replace(self._own, f"{identity}\n")
            return identity

    def adopted(self) -> Mapping[str, datetime]:
        """Return the times up to which generations of other stores count, by their identities. Raises OSError."""
        found: dict[str, datetime] = {}
        for line in self._lines(self._adopted):
            identity, _, time = line.partition(" ")
            with suppress(ValueError):  # an unreadable line
                until = datetime.fromisoformat(time)
                if until.tzinfo and re.fullmatch(STORE_IDENTITY, identity, re.ASCII):
                    found[identity] = max(until, found.get(identity, until))
        return found

    def adopt(self, until: Mapping[str, datetime]) -> None:
        """Count the generations that these stores made up to a time (aware) as own, durably. Raises OSError."""
        with file_lock(self._lock, "identity", timeout_s=math.inf):
            known = dict(self.adopted())
            for identity, time in until.items():
                known[identity] = max(time, known.get(identity, time))
            lines = (f"{identity} {time.isoformat()}\n" for identity, time in sorted(known.items()))
            _replace(self._adopted, "".join(lines))

    def _lines(self, path: Path) -> list[str]:
        try:
            return path.read_text(errors="replace").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return []
