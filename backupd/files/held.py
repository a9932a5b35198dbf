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
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import BinaryIO, Final

from backupd.files.index import IndexWriter, Trailer, day_of, lines_of, order_of
from backupd.files.storing import Item, Storing
from backupd.files.walker import Edit, FilesDirectory, Walk, walking
from backupd.files.worker.walk import WalkReply
from backupd.system.directory import Directory
from backupd.system.fs import OPEN_FILES
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
        self.new += reply["new"]
        self.changed += reply["changed"]
        self.gone += reply["gone"]
        self.late, self.vanished, self.special = reply["late"], reply["vanished"], reply["special"]
        self.unreadable, self.unreadable_names = reply["unreadable"], tuple(reply["unreadable_names"])
        self.mounts = tuple(reply["mounts"])


def most_held() -> int:
    """Let this process have as many files open as it may; return how many of them it can hold."""
    _, hard = descriptor_limits()
    most = min(hard, _MOST_HELD + _KEPT_FREE)
    allow_descriptors(most)
    return most - min(_KEPT_FREE, most * 3 // 4)


class HeldFiles:
    """The files of one set, held during the block of `holding`."""

    def __init__(
        self, directory: FilesDirectory, options: HoldOptions, index: HeldFile, storing: Storing, staging: Directory
    ) -> None:
        self.directory, self.storing, self.seen = directory, storing, Seen()
        self.index = index  # lines of it, and of each further one, may be without a last line
        self.since_ns = self.until_ns = 0  # by CLOCK_BOOTTIME: as of one time in between the files are held
        self._options, self._staging = options, staging
        self._edits = HeldFile.create(staging, "edits")
        self._news = dict[bytes, Item]()
        self._descriptors = set[int]()
        self._stack = ExitStack()
        self._walk: Walk | None = None
        self._written: IndexWriter | None = None
        self._indexes = 0

    def hold(self) -> None:
        """Hold what differs from the index.

        Raises the errors of `walking` and of `Storing.write`.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            is_last = attempt == _ATTEMPTS
            self.since_ns = _now_ns()
            walk = self._stack.enter_context(self._walking(self._options.most if is_last else _UNLIMITED))
            if self._spool(walk, _UNLIMITED if is_last else self._options.most):
                self._add(walk)
                self._walk = walk
                break
            self._add(walk)
            self._stack.close()
        self.until_ns = _now_ns()

    def rescan(self) -> None:
        """Hold what is new or changed since the hold; may be called again. Raises what `hold` raises."""
        assert self._walk is not None  # noqa: S101 - for the type checker
        for edit in self._walk.news(self._options.most - len(self._descriptors)):
            self.seen.differs = True
            item = self._held(edit)
            if replaced := self._news.get(order_of(item.line)):
                self._close(replaced.descriptor)
            else:
                self.seen.new += edit.descriptor >= 0
            self._news[order_of(item.line)] = item
        if self._walk.reply:
            self.seen.late = self._walk.reply["late"]
        self.until_ns = _now_ns()

    def store(self) -> int:
        """Store the contents of what is held, and what was not held; returns how many files that were.

        `index` is then the new one. Raises what `Storing.write` raises, and what `hold` does.
        """
        self._stack.close()
        self._apply(self._spooled(), self._news)
        not_held = self.seen.late
        if not_held or self.storing.findings.missing:
            with self._walking(_UNLIMITED) as walk:
                self._apply(walk.edits(), {})
                self._add(walk)
            self.until_ns = _now_ns()
        return not_held

    def finish_index(self, trailer: Trailer) -> HeldFile:
        """End the new index, which `store` has made, and make it durable. Raises OSError."""
        assert self._written is not None  # noqa: S101 - for the type checker
        with open(self.index.descriptor, "ab", closefd=False) as out:
            out.seek(0, os.SEEK_END)
            out.write(self._written.last_line(trailer))
        os.fsync(self.index.descriptor)
        return self.index

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the index."""
        with reopened(self.index.descriptor) as stream:
            yield from lines_of(stream)

    def close(self) -> None:
        """End the walk, and close what is still held."""
        self._stack.close()
        for descriptor in tuple(self._descriptors):
            self._close(descriptor)

    def _walking(self, most: int) -> AbstractContextManager[Walk]:
        options = self._options
        return walking(
            self.directory,
            self.index.descriptor,
            exclude=options.exclude,
            left_out=tuple(options.left_out),
            most_open=most,
            most_held=options.most,
            deadline=options.deadline,
        )

    def _add(self, walk: Walk) -> None:
        if walk.reply:
            self.seen.add(walk.reply)

    def _spool(self, walk: Walk, most: int) -> bool:
        """Write down the edits of a walk, and hold their files; False where these are `most`, and are stored now."""
        os.ftruncate(self._edits.descriptor, 0)
        edits = walk.edits()
        with self._edits.stream() as raw, open(raw.fileno(), "wb", _BUFFER_BYTES, closefd=False) as out:
            for edit in edits:
                item = self._held(edit)
                self.seen.differs |= bool(edit.drop or edit.line)
                out.write(b"%d %d %d %s\n" % (edit.keep, edit.drop, item.descriptor, edit.line))
                if len(self._descriptors) >= most:
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
            items = map(self._given, _merged(_items(edits, old), news, self._close))
            self._written = IndexWriter(out)
            self.storing.write(items, self._written)
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


@contextmanager
def holding(
    directory: FilesDirectory, options: HoldOptions, index: HeldFile, storing: Storing, staging: Directory
) -> Iterator[HeldFiles]:
    """Yield the files of `directory`, which are held from `HeldFiles.hold` until they are stored.

    `index` is that of the last run, or an empty file; `staging` an empty directory.
    """
    files = HeldFiles(directory, options, index, storing, staging)
    try:
        yield files
    finally:
        files.close()


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def reopened(descriptor: int) -> BinaryIO:
    """Return a buffered stream from the beginning of an open file, with a position of its own."""
    return open(f"{OPEN_FILES}{descriptor}", "rb", _BUFFER_BYTES)


def _item(edit: Edit) -> Item:
    if edit.descriptor >= 0:
        return Item(edit.line, edit.descriptor)
    return Item(b"%s\t%s\n" % (edit.line, day_of(time.time_ns())))


def _items(edits: Iterable[Edit], index: BinaryIO) -> Iterator[Item]:
    """Yield the lines of the index that `edits` keep, and those that they add."""
    lines, old = lines_of(index), b""
    for edit in edits:
        for line in islice(lines, edit.keep):
            yield Item(line)
        for line in islice(lines, edit.drop):
            old = line
        if edit.line:
            item = _item(edit)
            yield item._replace(old=old) if old and order_of(old) == order_of(edit.line) else item
            old = b""


def _merged(items: Iterable[Item], news: dict[bytes, Item], close: Callable[[int], None]) -> Iterator[Item]:
    """Yield `items` with `news`, each by its order, in their order; one of the same path is replaced.

    So is all that was below a path that is no directory any more.
    """
    left, below = deque(sorted(news.items())), b""
    for item in items:
        if not left and not below:
            yield item
            continue
        order, replaced = order_of(item.line), False
        while left and left[0][0] <= order:
            at, new = left.popleft()
            yield new
            below, replaced = b"" if new.line.startswith(b"d") else at + b"\0", at == order
        if replaced or (below and order.startswith(below)):
            close(item.descriptor)
        else:
            yield item
    for _, new in left:
        yield new
