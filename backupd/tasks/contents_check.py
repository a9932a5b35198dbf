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
from backupd.tasks.restore.extract import ContentsReader, OpenContent

_CHUNK_BYTES: Final = 1 << 20
_IN_FLIGHT: Final = 4  # for each thread

Advance = Callable[[int], None]
Entries = Callable[[], Iterator[FileEntry]]


@dataclass(frozen=True, slots=True)
class CheckedFiles:
    """The files of a list whose contents were read."""

    files: int
    size_bytes: int
    lacking: int  # files whose content is missing or damaged
    named: tuple[tuple[bytes, str], ...]  # the first of these with the reason
    digests: tuple[str, ...] = ()  # of their contents


class ContentsCheck:
    """Reads contents of one store, each once, however many files and lists name it.

    With `threads` several are read at the same time; without, as the store yields them.
    """

    def __init__(self, contents: ContentsReader, threads: int = 0) -> None:
        self._contents, self._threads = contents, threads
        self._sizes: dict[bytes, int] = {}  # of what is being read, by digest
        self._known: set[bytes] = set()
        self._faults: dict[bytes, str] = {}

    @property
    def faulty(self) -> frozenset[str]:
        """The digests of the contents that were missing or damaged."""
        return frozenset(map(bytes.hex, self._faults))

    def check(self, entries: Entries, most_named: int, advance: Advance) -> CheckedFiles:
        """Read what the files in a list contain, unless it is known already; `entries` yields the list anew.

        `advance` gets the bytes of what was read. Raises what reading raises but for contents that are missing or
        damaged, and what `entries` raises.
        """
        read_bytes = 0
        for size_bytes, digest, fault in self._read(self._unknown(entries())):
            read_bytes += size_bytes
            advance(read_bytes)
            if fault:
                self._faults[digest] = fault
        files = total_bytes = lacking = 0
        named, digests = list[tuple[bytes, str]](), list[str]()
        for entry in _files(entries()):
            files, total_bytes = files + 1, total_bytes + entry.size_bytes
            if fault := self._faults.get(bytes.fromhex(entry.digest), ""):
                lacking += 1
                if lacking <= most_named:
                    named.append((entry.path, fault))
                    digests.append(entry.digest)
        return CheckedFiles(files, total_bytes, lacking, tuple(named), tuple(dict.fromkeys(digests)))

    def _unknown(self, entries: Iterable[FileEntry]) -> Iterator[str]:
        for entry in _files(entries):
            digest = bytes.fromhex(entry.digest)
            if digest not in self._known:
                self._known.add(digest)
                self._sizes[digest] = entry.size_bytes
                yield entry.digest

    def _read(self, digests: Iterable[str]) -> Iterator[tuple[int, bytes, str]]:
        """Yield size and digest of each content, and what is wrong with it, empty where nothing is."""
        contents = ((bytes.fromhex(digest), open_content) for digest, open_content in self._contents.opened(digests))
        reading = ((self._sizes.pop(digest), digest, open_content) for digest, open_content in contents)
        if not self._threads:
            for size_bytes, digest, open_content in reading:
                yield size_bytes, digest, _fault(open_content, digest, size_bytes)
            return
        waiting: deque[tuple[int, bytes, Future[str]]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="contents") as pool:
            try:
                for size_bytes, digest, open_content in reading:
                    waiting.append((size_bytes, digest, pool.submit(_fault, open_content, digest, size_bytes)))
                    if len(waiting) > self._threads * _IN_FLIGHT:
                        yield _done(*waiting.popleft())
                while waiting:
                    yield _done(*waiting.popleft())
            finally:
                pool.shutdown(cancel_futures=True)


def _done(size_bytes: int, digest: bytes, reading: Future[str]) -> tuple[int, bytes, str]:
    return size_bytes, digest, reading.result()


def _files(entries: Iterable[FileEntry]) -> Iterator[FileEntry]:
    return (entry for entry in entries if entry.type == "f")


def _fault(open_content: OpenContent, expected: bytes, expected_bytes: int) -> str:
    """Return what is wrong with a content, empty where nothing is. Raises ReplicaUnreachable, OSError."""
    digest, size_bytes = hashlib.sha256(), 0
    try:
        with open_content() as stream:
            while size_bytes <= expected_bytes and (chunk := stream.read(_CHUNK_BYTES)):
                digest.update(chunk)
                size_bytes += len(chunk)
    except ContentMissing as error:
        return error.message
    except CopyCorrupt as error:
        return f"its content does not unpack: {error.message}"
    except OSError as error:
        if error.errno != EIO:
            raise
        return "the disk cannot read its content"
    return "" if (digest.digest(), size_bytes) == (expected, expected_bytes) else "its content is damaged"
