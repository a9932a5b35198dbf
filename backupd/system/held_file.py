"""Files that stay open from their making to their end, in directories that somebody else may write to."""

import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from backupd.system.directory import Directory
from backupd.system.fs import write_all
from backupd.system.small_file import UnexpectedFile

_LEASE_S: Final = 1.0
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class HeldFile:
    """The open file `descriptor`, which was `name` in `directory` when it was made or opened.

    It is closed with `directory`.
    """

    directory: Directory
    name: str
    descriptor: int

    @classmethod
    def create(cls, directory: Directory, name: str, mode: int = 0o600) -> Self:
        """Create the file `name`, which must not exist. Raises OSError."""
        return cls(directory, name, directory.hold(directory.create_file(name, mode)))

    @classmethod
    def open(cls, directory: Directory, name: str) -> Self:
        """Open the regular file `name` to read it. Raises OSError."""
        return cls(directory, name, directory.hold(directory.open_file(name)))

    @property
    def path(self) -> Path:
        """Where the file was made, for messages."""
        return Path(self.directory.path_of(self.name))

    @property
    def size_bytes(self) -> int:
        """The size of the file now."""
        return os.fstat(self.descriptor).st_size

    def stream(self) -> BinaryIO:
        """Return an unbuffered stream at the beginning of the file; closing it does not close the file."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return open(self.descriptor, "r+b", buffering=0, closefd=False)

    def close(self) -> None:
        """Close the file before its directory."""
        self.directory.release(self.descriptor)

    def write(self, data: bytes) -> None:
        """Write `data` to the new file, and fsync it; not yet its directory. Raises OSError."""
        with self.stream() as stream:
            write_all(stream, data)
        os.fsync(self.descriptor)

    def require_in_place(self) -> None:
        """Raise UnexpectedFile unless the file still has its name."""
        if not self.directory.holds(self.name, self.descriptor):
            raise UnexpectedFile("another file was put in the place of one that backupd made", str(self.path))

    def move(self, to: Directory, new: str) -> None:
        """Rename the file to `new` in `to`, see `Directory.move`. Raises UnexpectedFile, OSError."""
        self.directory.move(self.name, self.descriptor, to, new)

    def hand_over(self, to: Directory, new: str) -> "HeldFile":
        """Rename the file to `new` in `to`, which holds it open from now on; see `move`."""
        self.move(to, new)
        descriptor = to.hold(os.dup(self.descriptor))
        self.directory.release(self.descriptor)
        return HeldFile(to, new, descriptor)

    def discard(self) -> None:
        """Close and remove the file, wherever it is open. Raises OSError."""
        os.ftruncate(self.descriptor, 0)
        self.directory.release(self.descriptor)
        self.directory.unlink(self.name)

    @contextmanager
    def unwritable(self) -> Iterator[None]:
        """Only read the file from now on, and make sure that no process writes to it during the block.

        The kernel tells, by a lease (fcntl(2), F_SETLEASE); on a file system without leases, the time of its last
        change does. Raises UnexpectedFile, also at the end of the block, and OSError.
        """
        reader = self.directory.open_file(self.name)
        try:
            self.require_in_place()
            os.dup2(reader, self.descriptor, inheritable=False)  # this process may not have it open for writing either
        finally:
            os.close(reader)
        before, leased = _changed_at(self.descriptor), self._lease()
        yield
        if leased:
            unwritten = fcntl.fcntl(self.descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK
            fcntl.fcntl(self.descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        else:
            unwritten = _changed_at(self.descriptor) == before
        if not unwritten:
            raise UnexpectedFile("another process wrote to the copy while it was checked and packed", str(self.path))

    def _lease(self) -> bool:
        """Take the lease; False where there are none."""
        give_up = time.monotonic() + _LEASE_S
        fcntl.fcntl(self.descriptor, fcntl.F_SETSIG, signal.SIGURG)  # which is ignored; SIGIO would end this process
        while True:
            try:
                fcntl.fcntl(self.descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    return False
                if time.monotonic() >= give_up:
                    raise UnexpectedFile("another process has the copy open for writing", str(self.path)) from None
                time.sleep(_POLL_S)
            else:
                return True


def _changed_at(descriptor: int) -> tuple[int, int]:
    state = os.fstat(descriptor)
    return state.st_size, state.st_ctime_ns
