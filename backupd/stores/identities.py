"""Which store this is, and whose copies count as its own: the name that each manifest bears as `store`.

.backupd/identity   16 hex digits: made once, the same for ever
         adopted    lost stores that this one goes on with, a line each: identity, and up to which time it counts
"""

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from backupd.model import STORE_IDENTITY
from backupd.system.fs import inherit_owner, replace_durably

OWN_IDENTITY = "identity"


class Identities:
    """The identity of the store whose hidden directory is `directory`, and those that it has adopted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._own, self._adopted = directory / OWN_IDENTITY, directory / "adopted"

    def own(self) -> str | None:
        """Return the identity of this store, None where none is made yet or its file is damaged. Raises OSError."""
        name = next(iter(self._lines(self._own)), "")
        return name if re.fullmatch(STORE_IDENTITY, name, re.ASCII) else None

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

    def adopted(self) -> Mapping[str, datetime]:
        """Return up to which time the generations of other stores count, by their identities. Raises OSError.

        A line that cannot be read adopts nothing.
        """
        found: dict[str, datetime] = {}
        for line in self._lines(self._adopted):
            identity, _, time = line.partition(" ")
            with suppress(ValueError):
                until = datetime.fromisoformat(time)
                if until.tzinfo and re.fullmatch(STORE_IDENTITY, identity, re.ASCII):
                    found[identity] = max(until, found.get(identity, until))
        return found

    def adopt(self, until: Mapping[str, datetime]) -> None:
        """Count what these stores made up to a time (aware) as own from now on, durably. Raises OSError."""
        with self._alone():
            known = dict(self.adopted())
            for identity, time in until.items():
                known[identity] = max(time, known.get(identity, time))
            self._write(self._adopted, [f"{identity} {time.isoformat()}" for identity, time in sorted(known.items())])

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
            inherit_owner(path.parent, path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
