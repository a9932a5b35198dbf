"""Pins: generations that no retention policy may remove, here or at a replica.

They are files of the store, like holds: losing the catalog must not unpin anything. A pin does not end when this store
loses the generation: a replica may have it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from backupd.model import Pin, is_generation_id
from backupd.system.fs import fsync_directory, inherit_owner, replace_durably

_SUFFIX, _NEW = ".json", ".new"


class Pins:
    """The pins of a store, one small JSON file a generation, in `directory`. Change them only with the store locked."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def all(self) -> Mapping[str, Pin]:
        """Return every pin by the id of its generation, also those whose time is over. Raises OSError.

        A file that cannot be read pins as well, until it is released: better too much kept.
        """
        try:
            names = sorted(path.name for path in self._directory.iterdir())
        except FileNotFoundError:
            if self._directory.is_symlink():  # it leads nowhere: what is pinned is not known
                raise
            return {}
        ids = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
        found = (self.get(generation_id) for generation_id in ids if is_generation_id(generation_id))
        return {pin.generation: pin for pin in found if pin is not None}

    def get(self, generation_id: str) -> Pin | None:
        """Return the pin of one generation, as `all` does. Raises OSError."""
        path = self._path(generation_id)
        try:
            return _decoded(generation_id, path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError, OSError):
            since = datetime.fromtimestamp(path.lstat().st_mtime, UTC)
            return Pin(generation_id, since, None, f"{path} cannot be read")

    def set(self, pin: Pin) -> Pin:
        """Pin a generation, durably; a pin that is there already is never shortened, and keeps beginning and label.

        Returns the pin that is in force now. Raises ValueError where its generation is no generation's id, OSError.
        """
        if not is_generation_id(pin.generation):
            raise ValueError(f"{pin.generation[:120]!r} is no generation's id")
        old = self.get(pin.generation)
        if old is not None and old.holds(pin.since):
            pin = _merged(old, pin)
        if not self._directory.is_dir():
            self._directory.mkdir(mode=0o700)
            inherit_owner(self._directory.parent, self._directory)
            fsync_directory(self._directory.parent)
        for litter in self._directory.glob(f"*{_NEW}"):  # of a run that was killed
            litter.unlink()
        path = self._path(pin.generation)
        replace_durably(path, _encoded(pin), temporary=path.with_suffix(_NEW))
        return pin

    def release(self, generation_id: str) -> bool:
        """Let the retention policy decide about a generation again; False when it was not pinned. Raises OSError."""
        path = self._path(generation_id)
        if not is_generation_id(generation_id) or not path.exists():
            return False
        path.unlink()
        fsync_directory(self._directory)
        return True

    def _path(self, generation_id: str) -> Path:
        return self._directory / f"{generation_id}{_SUFFIX}"


def _merged(old: Pin, new: Pin) -> Pin:
    """Return the one of two pins on one generation that lasts longer (the new one when they are equal)."""
    outlasts = new.until is not None and (old.until is None or old.until > new.until)
    return replace(old if outlasts else new, since=old.since, label=new.label or old.label)


def _encoded(pin: Pin) -> bytes:
    facts = asdict(pin) | {"since": pin.since.isoformat(), "until": pin.until.isoformat() if pin.until else None}
    del facts["generation"]  # the name of the file says it
    return f"{json.dumps(facts, indent=2)}\n".encode()


def _decoded(generation_id: str, encoded: bytes) -> Pin:
    """Return the pin that a file holds. Raises ValueError, KeyError, TypeError, RecursionError when it holds none."""
    facts = json.loads(encoded)
    since, until = facts["since"], facts["until"]
    times = [datetime.fromisoformat(since), *([] if until is None else [datetime.fromisoformat(until)])]
    reason, label = facts["reason"], facts["label"]
    if not (isinstance(reason, str) and isinstance(label, str)) or any(time.tzinfo is None for time in times):
        raise ValueError("no pin")
    return Pin(generation_id, times[0], times[1] if len(times) > 1 else None, reason, label)
