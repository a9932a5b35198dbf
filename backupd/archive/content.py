"""Read the content of a file that a store keeps packed, in gzip members as archives are."""

import io
from typing import Any, BinaryIO

from backupd.archive.archive import MEMBER_BYTES
from backupd.archive.gzip_member import read_member, unpack_member


def unpacked(stored: BinaryIO, member_bytes: int = MEMBER_BYTES) -> BinaryIO:
    """Return a stream of what the packed file `stored` holds, which closes that; reading it raises CopyCorrupt.

    Each of its members holds `member_bytes` at most.
    """
    return io.BufferedReader(_Members(stored, member_bytes), MEMBER_BYTES)


class _Members(io.RawIOBase):
    """Unpacks a member at a time."""

    def __init__(self, stored: BinaryIO, member_bytes: int) -> None:
        super().__init__()
        self._stored, self._member_bytes = stored, member_bytes
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer; it has no name before Python 3.12
        """Fill `buffer` as far as the next member goes; 0 at the end. Raises CopyCorrupt, OSError."""
        while not self._piece:
            member = read_member(self._stored, self._member_bytes)
            if not member:
                return 0
            self._piece = memoryview(unpack_member(member, self._member_bytes))
        part = self._piece[: len(buffer)]
        buffer[: len(part)] = part
        self._piece = self._piece[len(part) :]
        return len(part)

    def fileno(self) -> int:
        """Return the descriptor of the packed file."""
        return self._stored.fileno()

    def close(self) -> None:
        """Close the packed file too."""
        self._stored.close()
        super().close()
