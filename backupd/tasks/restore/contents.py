"""Read the contents of files from a store for a restore: one of another host is asked for one at a time, and again."""

import shutil
import tempfile
from contextlib import ExitStack
from threading import Lock
from typing import BinaryIO, Final, Protocol, cast

from backupd.errors import ReplicaUnreachable, StoreUnusable
from backupd.stores.contract import Archives
from backupd.tasks.replica import Retry, replica_errors
from backupd.tasks.restore.extract import Connect, ResumingArchives

_IN_MEMORY_BYTES: Final = 8 << 20


class OpenedContents(Protocol):
    """The contents of files, to be read."""

    def open(self, digest: str) -> BinaryIO:
        """Open what is stored, unpacked, and not yet compared with `digest`.

        Raises ContentMissing, CopyCorrupt, ReplicaUnreachable, OSError.
        """


def contents_of(store: Archives) -> OpenedContents:
    """Return the contents of a store; several threads may read them. Raises StoreUnusable where it keeps none."""
    if isinstance(store, ResumingArchives):
        return FetchedContents(store.name, store.first, store.connect, store.retry)
    return _of(store)


class FetchedContents:
    """The contents of `first`; when its connection is lost, `connect` opens another, as long as `retry` allows."""

    def __init__(self, name: str, first: Archives, connect: Connect, retry: Retry) -> None:
        self._name, self._connect, self._retry = name, connect, retry
        self._contents: OpenedContents | None = _of(first)
        self._lock, self._stack = Lock(), ExitStack()

    def open(self, digest: str) -> BinaryIO:
        """Fetch a content, unpacked, into memory or a temporary file. Raises as `OpenedContents.open` does."""
        with self._lock:
            return self._retry(lambda: self._fetched(digest))

    def close(self) -> None:
        """Close the connection that was opened instead of the first one, if any."""
        self._stack.close()

    def _fetched(self, digest: str) -> BinaryIO:
        try:
            with replica_errors(self._name):
                if self._contents is None:
                    self._contents = _of(self._stack.enter_context(self._connect()))
                copy = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 - the reader closes it
                with self._contents.open(digest) as stream:
                    shutil.copyfileobj(stream, copy, 1 << 20)
        except ReplicaUnreachable:
            self._contents = None
            self._stack.close()
            raise
        copy.seek(0)
        return cast("BinaryIO", copy)


def _of(store: Archives) -> OpenedContents:
    contents = getattr(store, "contents", None)
    if contents is None:
        raise StoreUnusable(
            f"store {store.name} keeps no files, only databases",
            "restore the databases alone (--only NAME), or the point from another store (--from NAME)",
        )
    return cast("OpenedContents", contents)
