"""A set of files from the moment at which its new and changed files are held until their contents are stored.

    hold    what differs from the index is held by open descriptors, which keep a content whatever becomes of its name
    rescan  what is new or changed since is held as well
    store   the contents of what is held are stored, and a new index is made

Where more files differ than this process may have open, as in a first run, contents are stored before the hold. What
still does not fit then is read by its name at the end.
"""

import os
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import BinaryIO, Final

from backupd.files.index import IndexWriter, day_of, lines_of, order_of
from backupd.files.storing import Item, Storing
from backupd.files.walker import Edit, FilesDirectory, Walk, walking
from backupd.files.worker.walk import WalkReply
from backupd.system.directory import Directory
from backupd.system.held_file import HeldFile
from backupd.system.resources import allow_descriptors, descriptor_limits

_ATTEMPTS: Final = 3
_MOST_HELD: Final = 50_000
_KEPT_FREE: Final = 1000  # descriptors for everything else
_UNLIMITED: Final = 1 << 40
_BUFFER_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class HoldOptions:
    """What of a directory is held, and how much of it."""

    exclude: Sequence[str]
    left_out: Collection[str]  # paths below it
    most: int  # files that are held
    deadline: float  # by the monotonic clock


@dataclass(slots=True)
class Seen:
    """What the walks of one run have seen."""

    differs: bool = False  # from the index
    new: int = 0
    changed: int = 0
    gone: int = 0
    late: int = 0  # files that were not held
    vanished: int = 0  # while they were looked at
    special: int = 0  # sockets, pipes and devices
    unreadable: int = 0
    unreadable_names: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()

    def add(self, reply: WalkReply) -> None:
        """Add what one walk has seen: of what each sees again, the last counts."""
        self.new, self.changed, self.gone = (
            self.new + reply["new"],
            self.changed + reply["changed"],
            self.gone + reply["gone"],
        )
        self.late, self.vanished, self.special = reply["late"], reply["vanished"], reply["special"]
        self.unreadable, self.unreadable_names = reply["unreadable"], tuple(reply["unreadable_names"])
        self.mounts = tuple(reply["mounts"])


def most_held() -> int:
    """Let this process have as many files open as it may; return how many of them it can hold."""
    _, hard = descriptor_limits()
    most = min(hard, _MOST_HELD + _KEPT_FREE)
    allow_descriptors(most)
    return most - min(_KEPT_FREE, most // 2)


class HeldFiles:
    """The files of one set, held during the block of `holding`."""

    def __init__(
        self, directory: FilesDirectory, options: HoldOptions, index: HeldFile, storing: Storing, staging: Directory
    ) -> None:
        self.directory, self.storing, self.seen = directory, storing, Seen()
        self.index = index  # lines of it, and of each further one, may be without a last line
        self.since_ns = self.until_ns = 0  # the files are held as they were at one time in between
        self._options, self._staging = options, staging
        self._edits = HeldFile.create(staging, "edits")
        self._news = dict[bytes, Item]()
        self._descriptors = set[int]()
        self._stack = ExitStack()
        self._walk: Walk | None = None
        self._indexes = 0

    def hold(self) -> None:
        """Hold what differs from the index.

        Raises the errors of `walking` and of `Storing.write`.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            most = self._options.most if attempt == _ATTEMPTS else _UNLIMITED
            self.since_ns = time.time_ns()
            walk = self._stack.enter_context(self._walking(most))
            if self._spool(walk):
                self._add(walk)
                self._walk = walk
                break
            self._add(walk)
            self._stack.close()
        self.until_ns = time.time_ns()

    def rescan(self) -> None:
        """Hold what is new or changed since the hold, and look no more. Raises what `hold` raises."""
        assert self._walk is not None  # noqa: S101 - for the type checker
        for edit in self._walk.news():
            self.seen.differs = True
            self.seen.new += edit.descriptor >= 0
            item = self._held(edit)
            if replaced := self._news.get(order_of(item.line)):
                self._close(replaced.descriptor)
            self._news[order_of(item.line)] = item
        if self._walk.reply:
            self.seen.late = self._walk.reply["late"]
        self.until_ns = time.time_ns()
        self._stack.close()

    def store(self) -> int:
        """Store the contents of what is held, and what was not held; returns how many files that were.

        `index` is then the new one. Raises what `Storing.write` raises, and what `hold` does.
        """
        self._apply(self._spooled(), self._news)
        not_held = self.seen.late
        if not_held or self.storing.findings.missing:
            with self._walking(_UNLIMITED) as walk:
                self._apply(walk.edits(), {})
                self._add(walk)
            self.until_ns = time.time_ns()
        return not_held

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the index."""
        with reopened(self.index.descriptor) as stream:
            yield from lines_of(stream)

    def close(self) -> None:
        """End the walk, and close what is still held."""
        self._stack.close()
        for descriptor in tuple(self._descriptors):
            self._close(descriptor)

    def _walking(self, most: int) -> "AbstractContextManager[Walk]":
        options = self._options
        return walking(
            self.directory,
            self.index.descriptor,
            exclude=options.exclude,
            left_out=tuple(options.left_out),
            most_open=most,
            deadline=options.deadline,
        )

    def _add(self, walk: Walk) -> None:
        if walk.reply:
            self.seen.add(walk.reply)

    def _spool(self, walk: Walk) -> bool:
        """Write down the edits of a walk, and hold their files; False where these are too many, and are stored now."""
        os.ftruncate(self._edits.descriptor, 0)
        edits = walk.edits()
        with self._edits.stream() as raw, open(raw.fileno(), "wb", _BUFFER_BYTES, closefd=False) as out:
            for edit in edits:
                item = self._held(edit)
                self.seen.differs |= bool(edit.drop or edit.line)
                out.write(b"%d %d %d %s\n" % (edit.keep, edit.drop, item.descriptor, edit.line))
                if len(self._descriptors) >= self._options.most:
                    break
            else:
                return True
        self._apply(chain(self._spooled(), edits), {})
        return False

    def _spooled(self) -> Iterator[Edit]:
        with reopened(self._edits.descriptor) as stream:
            for text in stream:
                keep, drop, descriptor, line = text[:-1].split(b" ", 3)
                yield Edit(int(keep), int(drop), line, int(descriptor))

    def _apply(self, edits: Iterable[Edit], news: dict[bytes, Item]) -> None:
        """Make the index of `edits` and `news`."""
        self._indexes += 1
        new = HeldFile.create(self._staging, f"index-{self._indexes}")
        with reopened(self.index.descriptor) as old, open(new.descriptor, "wb", _BUFFER_BYTES, closefd=False) as out:
            items = (self._given(item) for item in _merged(_items(edits, old), news))
            self.storing.write(items, IndexWriter(out))
        self.index = new

    def _held(self, edit: Edit) -> Item:
        if edit.descriptor >= 0:
            self._descriptors.add(edit.descriptor)
        return _item(edit)

    def _given(self, item: Item) -> Item:
        """Return an item whose descriptor `Storing` closes."""
        self._descriptors.discard(item.descriptor)
        return item

    def _close(self, descriptor: int) -> None:
        if descriptor in self._descriptors:
            self._descriptors.remove(descriptor)
            os.close(descriptor)
