"""The place where jobs work: the local store with its lock, holds, catalog and log."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from backupd.catalog import CatalogUnavailable, open_catalog, read_catalog, read_copies
from backupd.errors import NoSpace
from backupd.log import Event, EventLog
from backupd.model import NoProgress, Pin, Progress, RunReport
from backupd.stores.contract import RecoveredItem
from backupd.stores.local import DirectoryStore
from backupd.stores.lock import LockHolder, store_lock
from backupd.stores.state import DamageMarks, Holds, Identities, Pins, Quarantine
from backupd.tasks.inventory import Inventory, take_inventory

if TYPE_CHECKING:
    from backupd.catalog.catalog import Catalog

_PINS_LOST, _PINNED_AGAIN_FOR = "the pins of this store were lost", timedelta(days=30)
T = TypeVar("T")
# Watches a run of a task of a subject; what it yields is told the report at the end. It may never raise.
Watch = Callable[[str, str], AbstractContextManager[Callable[[RunReport], None]]]


def utc_now() -> datetime:
    """Return the time as all of backupd tells it: aware, UTC."""
    return datetime.now(UTC)


@contextmanager
def unwatched(_task: str, _subject: str) -> Iterator[Callable[[RunReport], None]]:
    """Tell nobody."""
    yield lambda _report: None


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a job needs beside its own order; built by `bootstrap` alone. `warnings` degrade every run here.

    `configuration` returns the digest of the configuration of now, which the catalog keeps with each run.
    """

    store: DirectoryStore
    log: EventLog
    lock_timeout_s: float = 60.0
    progress: Progress = field(default_factory=NoProgress)
    clock: Callable[[], datetime] = utc_now
    warnings: tuple[str, ...] = ()
    watch: Watch = unwatched
    configuration: Callable[[], str] = str

    @property
    def holds(self) -> Holds:
        """The holds on sources of this store."""
        return Holds(self.store.hidden / "holds")

    @property
    def pins(self) -> Pins:
        """The pins on generations, whichever store they are in."""
        return Pins(self.store.hidden / "pins")

    @property
    def quarantine(self) -> Quarantine:
        """Where damaged copies are kept."""
        return Quarantine(self.store.hidden / "quarantine")

    @property
    def marks(self) -> DamageMarks:
        """Which generations a check has found damaged."""
        return DamageMarks(self.store.hidden / "damaged")

    @property
    def identities(self) -> Identities:
        """Which store this is, and whose copies count as its own."""
        return Identities(self.store.hidden)

    def identity(self) -> str:
        """Return the identity of the local store; a lost one is read from its newest manifests. Raises OSError."""
        return self.identities.ensure(self._identity_in_manifests)

    @property
    def catalog_path(self) -> Path:
        """Where the catalog lies."""
        return self.store.hidden / "catalog.sqlite3"

    def ask_catalog(self, question: Callable[["Catalog"], T], otherwise: T) -> T:
        """Return the catalog's answer to a question that only reads, or `otherwise` when there is no usable catalog.

        None is made; one that is there and cannot be used is said in the log.
        """

        def ask() -> T:
            with read_catalog(self.catalog_path) as catalog:
                return question(catalog)

        return self._asked(ask, otherwise)

    def copies(self) -> Mapping[str, tuple[str, ...]]:
        """Return the stores by id of generation, as far as the catalog knows; see `ask_catalog`."""
        return self._asked(lambda: read_copies(self.catalog_path), dict[str, tuple[str, ...]]())

    def _asked(self, ask: Callable[[], T], otherwise: T) -> T:
        if not os.path.lexists(self.catalog_path):  # a link that leads nowhere is trouble too
            return otherwise
        try:
            return ask()
        except CatalogUnavailable as error:
            self._say_unavailable(error)
            return otherwise

    def tell_catalog(self, news: Callable[["Catalog"], object]) -> None:
        """Let `news` write to the catalog, which is made where there is none; that it cannot be used is only logged."""
        try:
            with open_catalog(self.catalog_path) as catalog:
                news(catalog)
        except CatalogUnavailable as error:
            self._say_unavailable(error)

    @contextmanager
    def task_lock(self, task: str) -> Iterator[None]:
        """Let nobody else do `task` here; the store itself is left to others. Raises LockHeld, StoreUnusable."""
        self.store.prepare()
        if self._hidden_is_lost():
            with self.locked(task):  # which pins what is here
                pass
        path = self.store.hidden / f"{task}.lock"
        with store_lock(path, task, timeout_s=self.lock_timeout_s, on_wait=self._say_waiting):
            yield

    @contextmanager
    def locked(self, task: str) -> Iterator[None]:
        """Hold the store alone, and first finish or sweep what a killed run left. Raises LockHeld, StoreUnusable."""
        self.store.prepare()
        path = self.store.hidden / "lock"
        with store_lock(path, task, timeout_s=self.lock_timeout_s, on_wait=self._say_waiting) as dead:
            if dead is not None:
                what = f"a {dead.task} (process {dead.pid} on {dead.host}) died holding the lock: taken over"
                self.log.warning(Event.LOCK_TAKEN_OVER, what)
            self._recover()
            if self._hidden_is_lost():
                self._pin_all()
            self._renew_checksums()
            yield

    @contextmanager
    def locked_if_writable(self, task: str) -> Iterator[None]:
        """Do the same, for what only reads from the store: one on a read-only mount has no lock to take."""
        with self.locked(task) if self.store.writable() else nullcontext():
            yield

    def _say_unavailable(self, error: CatalogUnavailable) -> None:
        self.log.warning(Event.CATALOG_UNAVAILABLE, f"{error.message}: {error.hint}")

    def _say_waiting(self, holder: LockHolder | None) -> None:
        who = f"a {holder.task} (process {holder.pid} on {holder.host})" if holder else "another run"
        self.log.info(Event.LOCK_WAITING, f"waiting for {who} to end, {self.lock_timeout_s:.0f} s at most")

    def _renew_checksums(self) -> None:
        """Let `SHA256SUMS` list what is there: a run that was cut short has published without telling it."""
        if self.store.checksummed() == {stored.id for stored in self.store.list()}:
            return
        with suppress(OSError):  # pruning tries again, and tells; a full disk must not keep it from making room
            self.store.write_checksums(take_inventory(self.store, self.clock()).digests())

    def _hidden_is_lost(self) -> bool:
        """Tell whether there are generations, but not the identity that each store with one has. Raises OSError."""
        return self.identities.own() is None and bool(self.store.list())

    def _pin_all(self) -> None:
        """Pin what is here for a month: the pins are lost with the identity. It comes back last. Raises OSError."""
        now = self.clock()
        until = now + _PINNED_AGAIN_FOR
        ids = [stored.id for stored in self.store.list()]
        for generation_id in ids:
            self.pins.set(Pin(generation_id, now, until, _PINS_LOST))
        what = f"{len(ids)} generations are pinned until {until:%F %T} UTC: {_PINS_LOST}"
        self.log.warning(Event.GENERATION_PINNED, what, reason=_PINS_LOST, until=until.isoformat())
        self.identity()

    def _identity_in_manifests(self) -> str | None:
        inventory = take_inventory(self.store, self.clock())
        known = (inventory.manifests.get(generation.id) for generation in inventory.generations)
        return next((manifest.store for manifest in known if manifest is not None), None)

    def _recover(self) -> None:
        self.say_recovered(self.store.recover())

    def say_recovered(self, recovered: Iterable[RecoveredItem]) -> None:
        """Log what was done about what a killed run left, as it is done."""
        for found in recovered:
            match found.kind:
                case "removal":
                    what = f"finished the removal of {found.name} that a killed run had begun"
                    self.log.warning(Event.REMOVAL_RESUMED, what, generation=found.name)
                case "publication":
                    what = f"finished the publication of {found.name} that a killed run had begun"
                    self.log.warning(Event.PUBLISH_RESUMED, what, generation=found.name)
                case "staging" if found.problem:
                    what = f"could not sweep the work {found.name} of a killed run: {found.problem}"
                    self.log.warning(Event.STAGING_STUCK, what)
                case _:
                    self.log.warning(Event.STAGING_SWEPT, f"swept the work {found.name} of a killed run")


@contextmanager
def workplace(context: TaskContext) -> Iterator[Path]:
    """Lend an empty directory, gone at the end: of the store, or of the system where the store is read-only."""
    if context.store.writable():
        with context.store.staging() as place:
            yield place
        return
    with tempfile.TemporaryDirectory(prefix="backupd-") as name:
        try:
            yield Path(name)
        except NoSpace as error:
            raise NoSpace(error.message, "free space there, or set TMPDIR to a directory with more room") from error


def local_inventory(context: TaskContext) -> Inventory:
    """Read the local store, knowing what checks have found; each that is refused or lost is logged."""
    inventory = read_inventory(context)
    for generation, why in inventory.refused.items():
        context.log.warning(Event.MANIFEST_REFUSED, why, generation=generation, hint=inventory.way_out(generation))
    return inventory


def read_inventory(context: TaskContext) -> Inventory:
    """Do the same for a run that warns of what is refused itself: nothing is logged."""
    return take_inventory(context.store, context.clock(), context.marks.ids(), context.store.lost())
