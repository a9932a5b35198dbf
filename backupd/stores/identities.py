"""Which store this is, and whose copies count as its own: the name that each manifest bears as `store`.

.backupd/identity   16 hex digits: made once, the same for ever
         adopted    the identities of lost stores that this one goes on with, a line each: identity and time
"""

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from backupd.files import give_to_owner_of, replace_durably
from backupd.model import STORE_IDENTITY


class Identities:
    """The identity of the store whose hidden directory is `directory`, and those that it has adopted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._own, self._adopted = directory / "identity", directory / "adopted"

    def own(self) -> str | None:
        """Return the identity of this store, None where none is made yet or its file is damaged. Raises OSError."""
        return next(self._read(self._own), None)

    def made(self, recover: Callable[[], str | None]) -> str:
        """Return the identity of this store; where there is none, that which `recover` finds, else a new one.

        Of several processes that make it at once, one does; the others take over what it made. Raises OSError.
        """
        if own := self.own():
            return own
        with self._alone():
            if own := self.own():
                return own
            identity = recover() or secrets.token_hex(8)
            self._write(self._own, [identity])
            return identity

    def adopted(self) -> frozenset[str]:
        """Return the identities of the stores that this one goes on with. Raises OSError."""
        return frozenset(self._read(self._adopted))

    def adopt(self, identities: Iterable[str], now: datetime) -> None:
        """Count the copies of these stores as own from now on, durably. Raises OSError."""
        with self._alone():
            known = self.adopted()
            added = [f"{identity} {now.isoformat()}" for identity in sorted(set(identities) - known)]
            if added:
                self._write(self._adopted, [*self._lines(self._adopted), *added])

    def _read(self, path: Path) -> Iterator[str]:
        """Yield the identities in a file; a line that holds none is passed over."""
        for line in self._lines(path):
            name = line.partition(" ")[0]
            if re.fullmatch(STORE_IDENTITY, name, re.ASCII):
                yield name

    def _lines(self, path: Path) -> list[str]:
        try:
            return path.read_text(errors="replace").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _write(self, path: Path, lines: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        replace_durably(path, text.encode(), temporary=path.with_suffix(".new"))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from writing here during the block."""
        path = self._directory / "identity.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            give_to_owner_of(path.parent, path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
