"""Read the contents that lists of files name, each once, and compare them with their digests."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from errno import EIO
from typing import Final

from backupd.archive.file_list import FileEntry
from backupd.errors import ContentMissing, CopyCorrupt
from backupd.tasks.restore.extract import OpenedContents

_CHUNK_BYTES: Final = 1 << 20
_IN_FLIGHT: Final = 4  # for each thread

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class CheckedFiles:
    """The files of a list whose contents were read."""

    files: int
    size_bytes: int
    lacking: int  # files whose content is missing or damaged
    named: tuple[tuple[bytes, str], ...]  # the first of these with the reason


class ContentsCheck:
    """Reads contents of one store with so many `threads`, each once, however many files and lists name it."""

    def __init__(self, contents: OpenedContents, threads: int) -> None:
        self._contents, self._threads = contents, threads
        self._known: set[bytes] = set()
        self._faults: dict[bytes, str] = {}

    def check(self, entries: Callable[[], Iterator[FileEntry]], most_named: int, advance: Advance) -> CheckedFiles:
        """Read what files in a list contain, unless it is known already; `entries` yields the list anew.

        `advance` gets the bytes so far. Raises what reading raises but for contents that are missing or damaged, and
        what `entries` raises.
        """
        files = size_bytes = 0
        with ThreadPoolExecutor(self._threads, thread_name_prefix="contents") as pool:
            reading: deque[tuple[bytes, Future[str]]] = deque()
            try:
                for entry in _files(entries()):
                    files, size_bytes = files + 1, size_bytes + entry.size_bytes
                    digest = bytes.fromhex(entry.digest)
                    if digest not in self._known:
                        self._known.add(digest)
                        reading.append((digest, pool.submit(_fault, entry, self._contents)))
                    if len(reading) > self._threads * _IN_FLIGHT:
                        self._take(*reading.popleft())
                        advance(size_bytes)
                while reading:
                    self._take(*reading.popleft())
                advance(size_bytes)
            finally:
                pool.shutdown(cancel_futures=True)
        lacking, named = 0, list[tuple[bytes, str]]()
        for entry in _files(entries()) if self._faults else ():
            if fault := self._faults.get(bytes.fromhex(entry.digest)):
                lacking += 1
                named += [(entry.path, fault)] if lacking <= most_named else []
        return CheckedFiles(files, size_bytes, lacking, tuple(named))

    def _take(self, digest: bytes, reading: Future[str]) -> None:
        if fault := reading.result():
            self._faults[digest] = fault


def _files(entries: Iterable[FileEntry]) -> Iterator[FileEntry]:
    return (entry for entry in entries if entry.type == "f")


def _fault(entry: FileEntry, contents: OpenedContents) -> str:
    """Return what is wrong with the content of a file, empty where nothing is. Raises ReplicaUnreachable, OSError."""
    digest, size_bytes = hashlib.sha256(), 0
    try:
        with contents.open(entry.digest) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
                if size_bytes > entry.size_bytes:
                    return "its content is longer than its list says"
    except (ContentMissing, CopyCorrupt) as error:
        return error.message
    except OSError as error:
        if error.errno != EIO:
            raise
        return "the disk cannot read its content"
    is_sound = digest.hexdigest() == entry.digest and size_bytes == entry.size_bytes
    return "" if is_sound else "its content is damaged"
