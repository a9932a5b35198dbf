"""What every task works with: the local store with its lock, holds and pins, the catalog, the log and the clock."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from backupd.catalog import CatalogUnavailable, read_catalog, read_copies
from backupd.errors import NoSpace
from backupd.log import EventLog
from backupd.model import NoProgress, Pin, Progress
from backupd.report import AnyReport, RunReport
from backupd.stores.contract import RecoveredItem
from backupd.stores.local import DirectoryStore
from backupd.stores.state import DamageMarks, DueSweeps, Holds, Identities, Pins, Quarantine
from backupd.system.directory import Directory
from backupd.system.file_lock import LockHolder, file_lock
from backupd.tasks.events import (
    CatalogRebuilt,
    CatalogUnusable,
    LockAwaited,
    LockTakenOver,
    ManifestRefused,
    PinsLost,
    TaskEvent,
    WorkRecovered,
)
from backupd.tasks.inventory import Inventory, take_inventory
from backupd.tasks.reporter import CATALOG_NAME, Reporter
from backupd.tasks.run import D, Run, recorded, working

if TYPE_CHECKING:
    from backupd.catalog.catalog import Catalog

_PINS_LOST, _PINNED_AGAIN_FOR = "the pins of this store were lost", timedelta(days=30)
T = TypeVar("T")
# Pings the monitor of a task and its subject when a run begins, and when the yielded function gets the report of its
# end. It never raises.
Watch = Callable[[str, str], AbstractContextManager[Callable[[AnyReport], None]]]


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a task needs beside its request; built by `bootstrap` alone."""

    store: DirectoryStore
    log: EventLog
    lock_timeout_s: float = 60.0
    progress: Progress = field(default_factory=NoProgress)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    warnings: tuple[str, ...] = ()  # each degrades every run
    watch: Watch = lambda _task, _subject: nullcontext(lambda _report: None)  # pings no monitor
    configuration: Callable[[], str] = str  # returns the digest of the configuration, which the catalog keeps by run

    @property
    def holds(self) -> Holds:
        """The holds on sources of this store."""
        return Holds(self.store.hidden)

    @property
    def pins(self) -> Pins:
        """The pins on generations, whichever store they are in."""
        return Pins(self.store.hidden)

    @property
    def quarantine(self) -> Quarantine:
        """Where damaged copies are kept."""
        return Quarantine(self.store.hidden)

    @property
    def marks(self) -> DamageMarks:
        """Which generations a check has found damaged."""
        return DamageMarks(self.store.hidden)

    @property
    def sweeps(self) -> DueSweeps:
        """In which stores contents of files are to be swept."""
        return DueSweeps(self.store.hidden)

    @property
    def identities(self) -> Identities:
        """Which store this is, and whose copies count as its own."""
        return Identities(self.store.hidden)

    def identity(self) -> str:
        """Return the identity of the local store; a lost one is read from its newest manifests. Raises OSError."""
        return self.identities.ensure(lambda: take_inventory(self.store, self.clock()).newest_identity())

    @property
    def catalog_path(self) -> Path:
        """Where the catalog lies."""
        return self.store.hidden / CATALOG_NAME

    def ask_catalog(self, question: Callable[["Catalog"], T], otherwise: T) -> T:
        """Return what `question` reads from the catalog, or `otherwise` where there is none.

        One that cannot be used is logged.
        """

        def ask() -> T:
            with read_catalog(self.catalog_path) as catalog:
                return question(catalog)

        return self._asked(ask, otherwise)

    def copies(self) -> Mapping[str, tuple[str, ...]]:
        """Return the stores by id of generation, as far as the catalog knows; see `ask_catalog`."""
        return self._asked(lambda: read_copies(self.catalog_path), dict[str, tuple[str, ...]]())

    def _asked(self, ask: Callable[[], T], otherwise: T) -> T:
        if not os.path.lexists(self.catalog_path):  # a dangling link is a problem too
            return otherwise
        try:
            return ask()
        except CatalogUnavailable as error:
            self.emit(CatalogUnusable(error))
            return otherwise

    def emit(self, event: TaskEvent) -> None:
        """Write an event that is outside of any run to the log and the catalog."""
        self._reporter()(event)

    def new_run(self, task: str, subject: str, details: D) -> Run[D]:
        """Return a run that is not recorded, as of a rehearsal."""
        return Run(RunReport(task, subject, self.clock(), details), self._reporter(self.configuration()))

    @contextmanager
    def run(self, task: str, subject: str, details: D) -> Iterator[Run[D]]:
        """Record the block as one run: in the log, in the catalog and at the monitor.

        A BackupdError or OSError of the block is in the report, with what to do about it; anything else is, and is
        raised as well. Call `Run.start` as soon as the run has the locks that it needs.
        """
        with self.watch(task, subject) as ping_end:
            run = self.new_run(task, subject, details)
            run.warn_all(self.warnings)
            try:
                with recorded(run, self.store.directory):
                    yield run
            finally:
                ping_end(run.report)

    def working(self, runs: Sequence[Run[D]]) -> AbstractContextManager[None]:
        """Fail `runs` by a BackupdError or OSError of the block, which is work for all of them."""
        return working(runs, self.store.directory)

    def _reporter(self, configuration: str = "") -> Reporter:
        return Reporter(self.log, self.store, self.clock, configuration)

    @contextmanager
    def task_lock(self, task: str) -> Iterator[None]:
        """Hold the lock of one task; other tasks may use the store. Raises LockHeld, StoreUnusable."""
        self.store.prepare()
        if self._identity_is_lost():
            with self.exclusive_lock(task):
                self.recover()  # pins what is here
        path = self.store.hidden / f"{task}.lock"
        with file_lock(path, task, timeout_s=self.lock_timeout_s, on_wait=self._log_waiting):
            yield

    @contextmanager
    def exclusive_lock(self, task: str) -> Iterator[None]:
        """Hold the lock of the store. Raises LockHeld, StoreUnusable."""
        self.store.prepare()
        path = self.store.hidden / "lock"
        with file_lock(path, task, timeout_s=self.lock_timeout_s, on_wait=self._log_waiting) as dead:
            if dead is not None:
                self.emit(LockTakenOver(dead))
            yield

    def recover(self) -> None:
        """Finish or sweep what a killed run left in the store, unless it is read-only. Raises OSError.

        Only under the exclusive lock.
        """
        if not self.store.writable():
            return
        self.report_recovered(self.store.recover())
        if self._identity_is_lost():
            self._pin_all()
        self._renew_checksums()

    def exclusive_lock_if_writable(self, task: str) -> AbstractContextManager[None]:
        """Hold the lock of the store, for a task that only reads from it; one on a read-only mount has no lock."""
        return self.exclusive_lock(task) if self.store.writable() else nullcontext()

    def _log_waiting(self, holder: LockHolder | None) -> None:
        self.emit(LockAwaited(holder, self.lock_timeout_s))

    def _renew_checksums(self) -> None:
        """Write `SHA256SUMS` again where a run that was cut short has published without it."""
        if self.store.checksummed() == {stored.archive_name for stored in self.store.list()}:
            return
        with suppress(OSError):  # pruning tries again, and tells; a full disk must not keep it from making room
            self.store.write_checksums(take_inventory(self.store, self.clock()).checksums())

    def _identity_is_lost(self) -> bool:
        """Return whether there are generations, but not the identity that each store with one has. Raises OSError."""
        return self.identities.own() is None and bool(self.store.list())

    def _pin_all(self) -> None:
        """Pin what is here for a month: the pins are lost with the identity. It comes back last. Raises OSError."""
        now, ids = self.clock(), [stored.id for stored in self.store.list()]
        until = now + _PINNED_AGAIN_FOR
        for generation_id in ids:
            self.pins.set(Pin(generation_id, now, until, _PINS_LOST))
        self.emit(PinsLost(len(ids), until, _PINS_LOST))
        self.identity()

    def report_recovered(self, recovered: Iterable[RecoveredItem]) -> None:
        """Report what was recovered or swept after a killed run, one item as soon as it is done."""
        for found in recovered:
            self.emit(WorkRecovered(found))


@contextmanager
def work_directory(context: TaskContext) -> Iterator[Directory]:
    """Yield an empty directory for the block: in the store, or in TMPDIR where the store is read-only."""
    if context.store.writable():
        with context.store.staging() as directory:
            yield directory
        return
    with tempfile.TemporaryDirectory(prefix="backupd-") as name:
        try:
            with Directory.open(name) as directory:
                yield directory
        except NoSpace as error:
            raise NoSpace(error.message, "free space there, or set TMPDIR to a directory with more room") from error


def local_inventory(context: TaskContext) -> Inventory:
    """Read the local store as `read_inventory` does, and log each generation that is refused or lost."""
    inventory = read_inventory(context)
    _log_refused(inventory, context)
    return inventory


def _log_refused(inventory: Inventory, context: TaskContext) -> None:
    for generation, why in inventory.refused.items():
        context.emit(ManifestRefused(generation, why, inventory.how_to_repair(generation)))


def read_inventory(context: TaskContext) -> Inventory:
    """Read the local store; what checks found damaged is marked so."""
    return take_inventory(context.store, context.clock(), context.marks.ids(), context.store.lost())


def rebuild_catalog(context: TaskContext) -> int:
    """Replace the catalog by one made from the manifests of the local store; returns how many generations it has."""
    from backupd.catalog.rebuild import rebuild  # imports SQLAlchemy, which most commands do not need

    with context.exclusive_lock("rebuild"):
        context.recover()
        inventory = take_inventory(context.store, context.clock())
        count = rebuild(context.catalog_path, [(m, context.store.name) for m in inventory.manifests.values()])
    _log_refused(inventory, context)
    context.emit(CatalogRebuilt(count))
    return count
