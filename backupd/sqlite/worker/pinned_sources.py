"""Pin several live databases of one owner together; then copy each of them when the parent says so.

Run as `python -m backupd.sqlite.worker.pinned_sources` in a staging directory. All databases are checked and opened
first, so that the pins are one short loop. What cannot be pinned in it is left alone: an encrypted database, a hot
journal, one that is locked, or one whose writers would wait too long. A process of its own copies that later
(`snapshot.py`), and reports what was wrong with it.
"""

import math
import os
import random
import time
from contextlib import suppress
from typing import NoReturn

import apsw

from backupd.errors import BackupdError
from backupd.sqlite.file_format import Header
from backupd.sqlite.worker.connection import open_database
from backupd.sqlite.worker.protocol import PinReply, PinRequest, SnapshotReply, SnapshotRequest
from backupd.sqlite.worker.snapshot import (
    StagedFile,
    check_source,
    copy_errors,
    finish_copy,
    only_if_in_place,
    reply_of,
)
from backupd.sqlite.worker.snapshot_strategies import Copier
from backupd.sqlite.worker.source_file import MOST_DESCRIPTORS, require_opened
from backupd.system.owners import become_owner
from backupd.system.resources import allow_descriptors
from backupd.system.worker import ParentPipe, serve

_WATCH_S = 0.2
_OPENING_S = 20.0
_LEFT_ALONE = (BackupdError, OSError, apsw.Error)


class _GivenUp(Exception):
    """The pin that is copied costs its app too much by now."""


class OpenSource:
    """One source from its opening until it is copied or left alone, with the file of its copy."""

    def __init__(self, request: SnapshotRequest, staged: StagedFile, copier: Copier, source: apsw.Connection) -> None:
        self.request, self.staged, self.copier, self.source = request, staged, copier, source
        self.identity = (request["device"], request["inode"])
        self.size_bytes = os.stat(request["path"]).st_size
        self.is_pinned = False

    @property
    def header(self) -> Header:
        """The header of the source."""
        return self.copier.header

    @property
    def holds_writers(self) -> bool:
        """Whether its writers wait while it is pinned."""
        return self.header.journal_mode != "wal"

    def try_to_pin(self) -> bool:
        """Pin the source; False where it is locked at the moment, True also where it cannot be pinned at all."""
        try:
            self.copier.pin(self.source)
        except apsw.BusyError:
            return False
        except (apsw.Error, OSError):
            return True
        self.is_pinned = True
        return True

    def release(self) -> None:
        """Give up the pin, if there is one: it can be taken again."""
        if self.is_pinned:
            self.source.execute("ROLLBACK")
            self.is_pinned = False

    def costs_too_much(self) -> bool:
        """Return whether its writers have waited for their whole budget, or its WAL or the disk grew too much."""
        if self.holds_writers:
            return time.monotonic() - self.copier.pinned_at > self.copier.settings.writer_budget_s
        try:
            self.copier.check_growth()
        except _LEFT_ALONE:
            return True
        return False

    def copy(self, deadline: float) -> SnapshotReply:
        """Copy the pinned snapshot. Raises what the copy of a source alone does."""
        self.copier.deadline = deadline
        with only_if_in_place(self.request["path"], self.identity), copy_errors(self.request["path"]):
            self.staged.prepare()
            self.copier.copy_pinned(self.source)
            self.source.close()
            finish_copy(self.staged, self.header)
            return reply_of(self.copier, self.header, hot=False)

    def close(self) -> None:
        """Release the pin, and close the copy: nothing here has it open any more."""
        self.source.close(force=True)
        _close(self.staged)


class PinnedSources:
    """The databases of one request, by their numbers in it."""

    def __init__(self, request: PinRequest, parent: ParentPipe) -> None:
        allow_descriptors(MOST_DESCRIPTORS)
        _allocate_little()
        self._parent = parent
        self._sources: dict[int, OpenSource] = {}
        self._copied: OpenSource | None = None
        self._watch_at = 0.0
        staged = [StagedFile.open(one) for one in request["sources"]]
        owner = become_owner(request["sources"][0]["uid"], request["sources"][0]["gid"])
        give_up = time.monotonic() + _OPENING_S
        for number, (one, file) in enumerate(zip(request["sources"], staged, strict=True)):
            assert file is not None  # noqa: S101 - for the type checker: only a probe has no file
            source = self._opened(one, file, owner=owner) if time.monotonic() < give_up else None
            if source is None:
                _close(file)
            else:
                self._sources[number] = source

    def pin(self, wait_s: float) -> dict[int, PinReply]:
        """Pin the sources, again where they are pinned, those first whose writers wait.

        What stays locked for `wait_s` is left alone.

        That time is shorter where writers wait: half of what the most impatient of them accept.
        """
        for one in self._sources.values():
            one.release()
        held = self._within_budgets()
        give_up = time.monotonic() + min([wait_s, *(one.copier.settings.writer_budget_s / 2 for one in held)])
        _pin_each(held, give_up)
        _pin_each([one for one in self._sources.values() if not one.holds_writers], give_up)
        for number, one in list(self._sources.items()):
            if not one.is_pinned:
                self._leave(number)
        return {
            number: PinReply(instant=one.copier.instant, holds_writers=one.holds_writers)
            for number, one in self._sources.items()
        }

    def copy(self, number: int, deadline: float) -> SnapshotReply | None:
        """Copy one source; None where its pin was released since, because it cost its app too much."""
        self._copied = self._sources.pop(number, None)
        if self._copied is None:
            return None
        try:
            return self._copied.copy(deadline)
        except _GivenUp:
            return None
        finally:
            self._copied.close()
            self._copied = None

    def watch(self) -> None:
        """Release each pin that costs its app too much. Raises `_GivenUp` for the one that is being copied."""
        if time.monotonic() < self._watch_at:
            return
        self._watch_at = time.monotonic() + _WATCH_S
        for number, one in list(self._sources.items()):
            if one.is_pinned and one.costs_too_much():
                self._leave(number)
        if self._copied is not None and self._copied.costs_too_much():
            raise _GivenUp

    def _opened(self, request: SnapshotRequest, staged: StagedFile, *, owner: bool) -> OpenSource | None:
        """Check and open a source; None for one that is left alone."""
        identity = (request["device"], request["inode"])
        with suppress(*_LEFT_ALONE), only_if_in_place(request["path"], identity):
            header = check_source(request, owner=owner)
            if header.encrypted:
                return None
            copier = Copier(request, self._parent, header, staged.target, self.watch)
            copier.deadline = math.inf  # its time begins with its own copy
            source = open_database(request["path"], apsw.SQLITE_OPEN_READONLY)
            try:
                require_opened(request["path"], identity)
                return OpenSource(request, staged, copier, source)
            except BaseException:
                source.close()
                raise
        return None

    def _within_budgets(self) -> list[OpenSource]:
        """Return the sources whose writers wait, smallest first, as many as can be copied within their budgets.

        All others whose writers would wait are left alone.
        """
        chosen, estimate_s = list[OpenSource](), 0.0
        held = [(one.size_bytes, number) for number, one in self._sources.items() if one.holds_writers]
        for size_bytes, number in sorted(held):
            one = self._sources[number]
            estimate_s += size_bytes / one.copier.bytes_a_second
            if estimate_s <= one.copier.settings.writer_budget_s:
                chosen.append(one)
            else:
                self._leave(number)
        return chosen

    def _leave(self, number: int) -> None:
        self._sources.pop(number).close()


def _allocate_little() -> None:
    """Let SQLite allocate nothing in advance for each connection, of which there are two for each database."""
    apsw.shutdown()
    apsw.config(apsw.SQLITE_CONFIG_LOOKASIDE, 0, 0)
    apsw.initialize()


def _pin_each(sources: list[OpenSource], give_up: float) -> None:
    """Try to pin each of `sources` again and again, once at least, until `give_up`."""
    while sources := [one for one in sources if not one.try_to_pin()]:
        if time.monotonic() > give_up:
            return
        time.sleep(random.uniform(0.0005, 0.005))  # noqa: S311 - jitter, not a secret


def _close(staged: StagedFile) -> None:
    staged.target.close(force=True)
    os.close(staged.database)


def serve_pinned_sources(request: PinRequest, parent: ParentPipe) -> NoReturn:
    """Open the sources, answer, and then do what the parent commands until it ends this process."""
    pinned = PinnedSources(request, parent)
    parent.answer(lambda: None)
    while True:
        command = parent.next_command(_WATCH_S)
        pinned.watch()
        if command is None:
            continue
        number, deadline, wait_s = command["copy"], command["deadline"], command["wait_s"]
        if number is None:
            parent.answer(lambda: pinned.pin(wait_s))  # noqa: B023 - called at once
        else:
            parent.answer(lambda: pinned.copy(number, deadline))  # noqa: B023 - called at once


if __name__ == "__main__":
    serve(serve_pinned_sources)
