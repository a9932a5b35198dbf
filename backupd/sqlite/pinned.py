"""Pin several live databases together, so that their copies are of one instant as nearly as can be.

One worker process pins all databases of one owner: a process for each would take its memory as many times, and would
pin later than the others by the time that it takes to start.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from backupd.errors import BackupdError, WorkerFailed, WorkerHung
from backupd.sqlite.snapshot import GRACE_S, Snapshot, between, snapshot_of, snapshot_request, timeout_errors
from backupd.sqlite.source import Source
from backupd.sqlite.worker.protocol import PinCommand, PinReply, PinRequest, SnapshotReply, SnapshotSettings
from backupd.sqlite.worker_process import WorkerProcess
from backupd.system.directory import Directory
from backupd.system.held_file import HeldFile
from backupd.system.mounts import filesystem_of, is_remote
from backupd.system.resources import descriptor_limits
from backupd.system.worker_process import OnEvent, OnProgress, ignore

MOST_TOGETHER: Final = 200
_MOST_OWNERS: Final = 4  # each of whom takes a process
_WAIT_S: Final = 2.0  # for a locked database; the worker waits less where that holds the writers of others
_OPENING_S: Final = 30.0
_MOST_PINS: Final = 5  # of which the last stays, whatever is written meanwhile
_PINS_S: Final = 1.0  # for all of them; files may be many
_TICK_S: Final = 0.01  # of the clock of files, at most
_CLOCK_OF_FILES: Final = 5  # CLOCK_REALTIME_COARSE of clock_gettime(2), from which Linux takes the times of files
_DESCRIPTORS: Final = 5  # that a worker has open for each: its copy, twice, database, WAL and shared memory
_OTHER_DESCRIPTORS: Final = 100


class Pinnable(NamedTuple):
    """A source, and how it is copied."""

    source: Source
    settings: SnapshotSettings


@dataclass(frozen=True, slots=True)
class PinnedSource:
    """A database that is pinned: at one instant between `since` and `until` it was what its copy will be."""

    since: datetime
    until: datetime
    holds_writers: bool  # its writers wait until it is copied
    _by: "_Worker"
    _number: int
    unsure_ms: int = 0  # its app wrote to it while something was done `around` the pins, which took as long

    def written_since(self, time_ns: int) -> bool:
        """Tell whether its app may have committed since a time by the clock of files. Raises OSError."""
        if self.holds_writers:
            return False
        path = self._by.sources[self._number].source.path
        try:
            modified_ns = path.with_name(f"{path.name}-wal").stat().st_mtime_ns
        except FileNotFoundError:  # no commit has been written to it
            return False
        return modified_ns >= time_ns or is_remote(filesystem_of(str(path)))  # whose clock is another

    def copy(self, deadline: float, on_progress: OnProgress, on_event: OnEvent) -> Snapshot | None:
        """Copy it now, once, until `deadline` by the monotonic clock.

        None where it is not pinned any more: it cost its app too much, or the process that held the pin has died.
        Raises what `take_snapshot` raises.
        """
        source, settings = self._by.sources[self._number]
        copy, snapshot, limit = self._by.copies[self._number], None, deadline
        if self.holds_writers:  # the worker gives it up itself, unless it hangs
            limit = min(deadline, time.monotonic() + settings.writer_budget_s)
        try:
            self._by.command(self._number, deadline, limit)
            reply: SnapshotReply | None = self._by.reply(on_progress, on_event)
            snapshot = snapshot_of(copy, reply) if reply else None
        except WorkerHung:
            if limit == deadline:
                with timeout_errors(source, settings):
                    raise
        finally:
            if snapshot is None:
                copy.discard()
        return snapshot


class _Worker:
    """The process that pins `sources`, which have one owner, and copies them into `copies`."""

    def __init__(self, sources: Sequence[Pinnable], copies: Sequence[HeldFile], staging: Directory) -> None:
        self.sources, self.copies = sources, copies
        requests = [  # a locked one holds up no other
            snapshot_request(source, settings._replace(busy_timeout_s=0.0), 0.0, copy)
            for (source, settings), copy in zip(sources, copies, strict=True)
        ]
        request, deadline = PinRequest(sources=requests), time.monotonic() + _OPENING_S
        files = [copy.descriptor for copy in copies]
        self.process = WorkerProcess[Any]("pinned_sources", request, staging.fixed_path, deadline, files)
        self._is_lost = False

    def command(self, copy: int | None, deadline: float, limit: float) -> None:
        """Let it copy one source, or pin all; it has until `limit` by the monotonic clock, and some seconds more."""
        if not self._is_lost:
            self.process.command(PinCommand(copy=copy, deadline=deadline, wait_s=_WAIT_S), limit + GRACE_S)

    def reply(self, on_progress: OnProgress = ignore, on_event: OnEvent = ignore) -> Any:  # noqa: ANN401 - of two kinds
        """Return its next reply, None once it has failed. Raises WorkerHung, and the error that it reports."""
        if self._is_lost:
            return None
        try:
            return self.process.reply(on_progress, on_event)
        except (WorkerFailed, WorkerHung) as error:
            self._is_lost = True
            self.process.kill()  # which releases its pins
            if isinstance(error, WorkerHung):
                raise
            return None

    def pinned(self) -> Iterator[tuple[int, PinnedSource]]:
        """Yield the sources that it has pinned, with their numbers."""
        found: Mapping[str, PinReply] = {}
        with suppress(BackupdError):  # copying alone reports what is wrong
            found = self.reply() or {}
        for key, pin in found.items():
            yield int(key), PinnedSource(*between(pin["instant"]), pin["holds_writers"], self, int(key))


@contextmanager
def pinned_together(
    wanted: Sequence[Pinnable | None],
    staging: Directory,
    fewest: int = 2,
    around: Callable[[], None] | None = None,
) -> Iterator[list[PinnedSource | None]]:
    """Pin the sources together for the block, with their copies in the empty directory `staging`.

    None for one that cannot be pinned, and for all where there are not even the `fewest`: these are copied alone.

    `around` is called just before the pins, when all is open and they take no time any more, and as soon as all are
    pinned. Where an app has committed in the meantime, its pin is taken again, and `around` is called again, a few
    times. So what a row of a copy names is there when `around` looks for it: the row was not deleted until then.
    """
    pinned: list[PinnedSource | None] = [None] * len(wanted)
    with ExitStack() as stack:
        workers = list[tuple[_Worker, list[int]]]()
        for numbers in _by_owner(wanted, fewest):
            sources = [one for number in numbers if (one := wanted[number])]
            with suppress(OSError, BackupdError):  # copying alone reports what is wrong
                copies = [HeldFile.create(staging, f"{number}.sqlite3") for number in numbers]
                worker = _Worker(sources, copies, staging)
                stack.enter_context(worker.process)
                workers.append((worker, numbers))
        for worker, _ in workers:
            with suppress(BackupdError):
                worker.reply()  # all sources are open
        if around is None:
            _pin(workers, pinned)
        else:
            _pin_between(workers, pinned, around)
        yield pinned


def _pin(workers: Sequence[tuple[_Worker, list[int]]], pinned: list[PinnedSource | None]) -> None:
    """Pin all, which may be pinned already."""
    pinned[:] = [None] * len(pinned)
    for worker, _ in workers:
        worker.command(None, 0.0, time.monotonic() + _WAIT_S)
    for worker, numbers in workers:
        for index, held in worker.pinned():
            pinned[numbers[index]] = held


def _pin_between(
    workers: Sequence[tuple[_Worker, list[int]]], pinned: list[PinnedSource | None], around: Callable[[], None]
) -> None:
    """Pin all between two calls of `around`, until no app has committed since the pins; what stays is `unsure_ms`."""
    give_up = time.monotonic() + _PINS_S
    around()
    for attempt in range(1, _MOST_PINS + 1):
        began_s, began_ns = time.monotonic(), time.clock_gettime_ns(_CLOCK_OF_FILES)
        _pin(workers, pinned)
        if not all(pinned):
            return
        around()
        written = [number for number, one in enumerate(pinned) if one and one.written_since(began_ns)]
        if not written:
            return
        if attempt < _MOST_PINS and time.monotonic() < give_up:
            time.sleep(_TICK_S)  # else what was written before would count once more
            continue
        unsure_ms = math.ceil((time.monotonic() - began_s) * 1000)
        for number in written:
            pinned[number] = (one := pinned[number]) and replace(one, unsure_ms=unsure_ms)
        return


def _by_owner(wanted: Sequence[Pinnable | None], fewest: int) -> list[list[int]]:
    """Return the numbers of what one process each can pin, the largest groups of one owner; nothing below `fewest`.

    Of sources that are one file under several names, the first.
    """
    owners, files = defaultdict[object, list[int]](list), set[object]()
    for number, one in enumerate(wanted):
        if one is None:
            continue
        state = one.source.signature.database
        if (state.device, state.inode) not in files:
            files.add((state.device, state.inode))
            owners[one.source.uid, one.source.gid].append(number)
    groups = sorted(owners.values(), key=len, reverse=True)[:_MOST_OWNERS]
    here, in_worker = descriptor_limits()
    left, most_each = min(MOST_TOGETHER, here - _OTHER_DESCRIPTORS), (in_worker - _OTHER_DESCRIPTORS) // _DESCRIPTORS
    chosen = list[list[int]]()
    for group in groups:
        chosen.append(group[: max(0, min(left, most_each))])
        left -= len(chosen[-1])
    return [group for group in chosen if group] if sum(map(len, chosen)) >= fewest else []
