"""The contents of files in a directory, each once, by the SHA-256 of what it holds.

DIRECTORY/files/ab/ab12….gz    packed
                /cd34…         as it is, where packing gains nothing

No content is trusted for its name: who reads one compares it with its digest.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from errno import EIO
from functools import partial
from itertools import groupby
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, Final

from backupd.archive.archive import digest_of
from backupd.archive.content import unpacked
from backupd.errors import ContentMissing, CopyCorrupt
from backupd.stores import contract
from backupd.stores.content_writer import ContentWriter
from backupd.system.directory import Directory
from backupd.system.small_file import UnexpectedFile

_DIRECTORY: Final = re.compile("[0-9a-f]{2}", re.ASCII)


class LocalContents:
    """The contents in a directory of this machine; see `stores.contract.Contents`."""

    def __init__(self, name: str, directory: Path) -> None:
        self._name, self._directory = name, directory

    def list(self) -> Iterator[contract.ListedContent]:
        """Yield all contents, in no order; whatever else lies there is skipped. Raises OSError."""
        for prefix, directory in self._directories():
            for name, state in directory.states():
                digest = contract.content_digest(name)
                if digest is not None and name.startswith(prefix) and S_ISREG(state.st_mode):
                    yield contract.ListedContent(digest, state.st_size, state.st_mtime)

    def digests(self) -> AbstractSet[bytes]:
        """Return the raw digests of all by their names alone, in a third of the time of `sizes`. Raises OSError."""
        names = (name for _, directory in self._directories() for name in directory.names())
        return {digest for digest in map(contract.content_digest, names) if digest is not None}

    def sizes(self) -> Mapping[bytes, int]:
        """Return the stored bytes of each, by its raw digest, from listings: none is read. Raises OSError."""
        return {content.digest: content.stored_bytes for content in self.list()}

    def open(self, digest: str) -> BinaryIO:
        """Open a content for reading, unpacked, and not yet compared with its digest; see `contract.Contents`."""
        name, stored = self.open_stored(digest)
        return unpacked(stored) if name != digest else stored

    def opened(self, digests: Iterable[str]) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
        """Yield each digest with what opens it as `open` does."""
        return ((digest, partial(self.open, digest)) for digest in digests)

    def open_stored(self, digest: str) -> tuple[str, BinaryIO]:
        """Open the file of a content as it is stored; returns its name too. Raises ContentMissing, OSError."""
        what = "is not there"
        if contract.is_digest(digest):
            with suppress(FileNotFoundError), self._opened() as files, files.child(digest[:2]) as directory:
                for name in contract.content_names(digest):
                    try:
                        return name, open(directory.open_file(name), "rb")
                    except FileNotFoundError:
                        continue
                    except UnexpectedFile as error:
                        what = f"is {error.strerror}"
        raise contract.content_missing(digest, self._name, what)

    def remove(self, digests: Collection[str]) -> None:
        """Remove what no list names any more; missing ones are accepted. Raises OSError."""
        with suppress(FileNotFoundError), self._opened() as files:
            for prefix, group in groupby(sorted(digests), key=lambda digest: digest[:2]):
                with suppress(FileNotFoundError), files.child(prefix) as directory:
                    for digest in group:
                        for name in contract.content_names(digest):
                            with suppress(IsADirectoryError):  # no content
                                directory.unlink(name)
                    directory.fsync()

    @contextmanager
    def adding(self, staging: Directory, may_read: contract.MayRead = contract.anybody) -> Iterator[ContentWriter]:
        """Yield what adds contents, of several threads at once, through files in `staging`.

        At the end of the block all that were added are durable and have their names. What was added before a kill
        stays, and is found again. As root, they get the owner of the store where that user `may_read` them. Raises
        CopyCorrupt, OSError.
        """
        with Directory.open(self._directory) as base, base.make(contract.CONTENTS) as files:
            given = may_read(base.owner()[0])
            writer = ContentWriter(files, staging, self._is_sound, owner=base if given else None)
            yield writer
            writer.commit()

    def require_sound(self, digest: str) -> None:
        """Read a content, and compare it with its digest. Raises CopyCorrupt, ContentMissing, OSError."""
        with self.open(digest) as stream:
            try:
                found = digest_of(stream)
            except CopyCorrupt:
                found = ""
            except OSError as error:
                if error.errno != EIO:
                    raise
                found = ""
        if found != digest:
            what = f"the content {digest!r} of a file in store {self._name} is damaged"
            raise CopyCorrupt(what, contract.CONTENT_HINT)

    def _is_sound(self, digest: str) -> bool:
        """Return whether a content is there, undamaged; then it is not swept for a while."""
        try:
            self.require_sound(digest)
            with self.open_stored(digest)[1] as stored, suppress(PermissionError):
                os.utime(stored.fileno())
        except (ContentMissing, CopyCorrupt):
            return False
        return True

    def _directories(self) -> Iterator[tuple[str, Directory]]:
        with suppress(FileNotFoundError), self._opened() as files:
            for prefix in filter(_DIRECTORY.fullmatch, sorted(files.names())):
                try:
                    directory = files.child(prefix)
                except (FileNotFoundError, UnexpectedFile):
                    continue
                with directory:
                    yield prefix, directory

    @contextmanager
    def _opened(self) -> Iterator[Directory]:
        with Directory.open(self._directory) as base, base.child(contract.CONTENTS) as files:
            yield files
