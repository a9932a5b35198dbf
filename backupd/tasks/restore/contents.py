"""Read the contents of files from a store for a restore: from another host in the order of the list, many at a time."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from threading import Lock
from typing import BinaryIO, Final, Protocol, cast

from backupd.errors import StoreUnusable
from backupd.stores.contract import Archives
from backupd.tasks.restore.extract import ContentsReader, OpenContent, ResumingArchives

_IN_MEMORY_BYTES: Final = 8 << 20
_FEW: Final = 50  # contents, to open which one by one is cheaper than to list what is there


class OpenedContents(Protocol):
    """The contents of files, to be read."""

    def open(self, digest: str) -> BinaryIO:
        """Open what is stored, unpacked, and not yet compared with `digest`.

        Raises ContentMissing, CopyCorrupt, ReplicaUnreachable, OSError.
        """


def contents_of(store: Archives, needed: Iterable[str], count: int) -> OpenedContents:
    """Return the contents of a store; several threads may read them, nearly in the order of `needed`, `count` digests.

    Raises StoreUnusable where it keeps none.
    """
    if isinstance(store, ResumingArchives):
        return FetchedContents(store.contents, needed if count > _FEW else ())
    contents = getattr(store, "contents", None)
    if contents is None:
        raise StoreUnusable(
            f"store {store.name} keeps no files, only databases",
            "restore the databases alone (--only NAME), or the point from another store (--from NAME)",
        )
    return cast("OpenedContents", contents)


class FetchedContents:
    """Contents of another host, which several threads open nearly in the order of `needed`: the next come together.

    The connection is used by one thread at a time.
    """

    def __init__(self, contents: ContentsReader, needed: Iterable[str]) -> None:
        self._contents, self._lock = contents, Lock()
        self._asked = set[bytes]()
        self._awaited = set[str]()  # what was asked for, and has not come
        self._come = dict[str, OpenContent]()
        self._coming = contents.opened(self._asking(needed))

    def open(self, digest: str) -> BinaryIO:
        """Fetch a content, unpacked, into memory or a temporary file. Raises as `OpenedContents.open` does."""
        with ExitStack() as stack:
            copy = stack.enter_context(tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES))
            with self._lock, self._opener(digest)() as stream:
                shutil.copyfileobj(stream, copy, 1 << 20)
            stack.pop_all()  # the reader closes it
        copy.seek(0)
        return cast("BinaryIO", copy)

    def _asking(self, needed: Iterable[str]) -> Iterator[str]:
        for digest in needed:
            if (raw := bytes.fromhex(digest)) not in self._asked:
                self._asked.add(raw)
                self._awaited.add(digest)
                yield digest

    def _opener(self, digest: str) -> OpenContent:
        """Return what opens a content; one that has been opened before is requested alone."""
        while digest in self._awaited or bytes.fromhex(digest) not in self._asked:
            found = next(self._coming, None)
            if found is None:
                break
            self._awaited.discard(found[0])
            self._come[found[0]] = found[1]
        return self._come.pop(digest, None) or (lambda: self._contents.open(digest))
