"""What happens during a task, as frozen events, and the one place that writes them to backup.log and to the catalog."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from backupd.catalog import CatalogUnavailable, CheckRecord, open_catalog
from backupd.log import Event, EventLog
from backupd.model import LOCAL_STORE, Hold, Manifest, Pin
from backupd.report import AnyReport, describe, report_facts
from backupd.stores.contract import Transfer
from backupd.stores.local import DirectoryStore

if TYPE_CHECKING:
    from backupd.catalog.catalog import Catalog

CATALOG_NAME = "catalog.sqlite3"


class TaskEvent:
    """Something that has happened in a task."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class SnapshotRetried(TaskEvent):
    """The source is copied a second time."""

    source: str
    why: str


@dataclass(frozen=True, slots=True)
class SnapshotQuarantined(TaskEvent):
    """A copy that may not be published is kept in the quarantine of the store."""

    why: str
    directory: Path


@dataclass(frozen=True, slots=True)
class SourceUnchanged(TaskEvent):
    """The source holds, digest for digest, what this generation holds."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class PruningHeld(TaskEvent):
    """Nothing of the source is pruned from now on."""

    hold: Hold


@dataclass(frozen=True, slots=True)
class PruningReleased(TaskEvent):
    """The source is pruned again, after a good backup or because an operator said so."""

    source: str
    by_operator: bool = False


@dataclass(frozen=True, slots=True)
class GenerationPublished(TaskEvent):
    """A generation is in the local store."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class GenerationSent(TaskEvent):
    """A generation is at a replica, and was verified there."""

    manifest: Manifest
    store: str
    transfer: Transfer


@dataclass(frozen=True, slots=True)
class CopyVerified(TaskEvent):
    """A check of the copy in one store ended; `detail` says what it found."""

    generation: str
    store: str
    sound: bool
    detail: str
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RemovalBegins(TaskEvent):
    """A store is about to remove its copy.

    The catalog forgets the copy first: after a kill in between it lacks a copy until the next run removes that, and
    never lists one that is gone.
    """

    generation: str
    store: str


@dataclass(frozen=True, slots=True)
class GenerationRemoved(TaskEvent):
    """A store has removed its copy."""

    generation: str
    store: str
    reason: str


@dataclass(frozen=True, slots=True)
class GenerationPinned(TaskEvent):
    """A generation is not pruned while its pin holds."""

    pin: Pin


@dataclass(frozen=True, slots=True)
class GenerationUnpinned(TaskEvent):
    """The retention policy alone decides about the generation again."""

    generation: str
    reason: str


class Reporter:
    """Writes runs and events to the log and the catalog; a catalog that cannot be used is logged, and stops nothing.

    `configuration` is the digest that the catalog keeps with each run.
    """

    def __init__(
        self, log: EventLog, store: DirectoryStore, clock: Callable[[], datetime], configuration: str = ""
    ) -> None:
        self._log, self._store, self._clock, self._configuration = log, store, clock, configuration
        self._catalog_path = store.hidden / CATALOG_NAME
        self._run_id: int | None = None
        self.mask = log.mask

    def started(self, report: AnyReport) -> str:
        """Record that a run begins, and that runs of the same task and subject were killed, if they have not ended.

        Returns why the catalog cannot be used, else nothing.
        """
        task, subject = report.task, report.subject
        self._log.info(Event.RUN_STARTED, f"{task} of {subject} begins", task=task, source=subject)
        try:
            with open_catalog(self._catalog_path) as catalog:
                for killed in catalog.interrupted_runs(task):
                    if killed.source == subject:
                        catalog.mark_interrupted(killed.id, self._clock())
                        what = f"the {task} of {subject} at {killed.started_at:%F %T} UTC was cut short"
                        self._log.warning(Event.RUN_INTERRUPTED, what, task=task, source=subject)
                self._run_id = catalog.start_run(task, subject, report.started_at, self._configuration)
        except CatalogUnavailable as error:
            if self._store.writable():
                return f"the catalog cannot be used: {error.message} ({error.hint})"
            return f"{self._store.directory} cannot be written: this run is neither in the log nor in the catalog"
        return ""

    def finished(self, report: AnyReport) -> None:
        """Record how a run ended. One that failed before it started makes no catalog where there is none."""
        write = self._log.warning if report.warnings else self._log.info
        if report.outcome == "failed":
            write = self._log.error
        facts = report_facts(report)
        facts["error.message"] = facts.pop("error")
        facts["event.outcome"] = "failure" if report.outcome == "failed" else "success"
        facts["event.duration"] = int(report.duration_s * 1e9)
        write(Event.RUN_FINISHED, describe(report), **facts)
        run_id, now = self._run_id, self._clock()
        if run_id is not None or os.path.lexists(self._catalog_path):
            self.write_catalog(lambda catalog: catalog.record_run(report, now, self._configuration, run_id))

    def write_catalog(self, write: Callable[["Catalog"], object]) -> None:
        """Let `write` change the catalog, which is made where there is none."""
        try:
            with open_catalog(self._catalog_path) as catalog:
                write(catalog)
        except CatalogUnavailable as error:
            self._log.warning(Event.CATALOG_UNAVAILABLE, f"{error.message}: {error.hint}")

    def __call__(self, event: TaskEvent) -> None:
        """Write one event to the log and the catalog, as far as it concerns them."""
        self._to_log(event)
        now = self._clock()
        match event:
            case GenerationPublished(manifest):
                self.write_catalog(lambda catalog: catalog.add_generation(manifest, LOCAL_STORE))
            case GenerationSent(manifest, store):
                self.write_catalog(lambda catalog: catalog.add_generation(manifest, store))
            case CopyVerified(generation, store, sound, detail, duration_s):
                check = CheckRecord(generation, store, now, sound, self.mask(detail), duration_s)
                self.write_catalog(lambda catalog: catalog.record_check(check))
            case RemovalBegins(generation, store):
                self.write_catalog(lambda catalog: catalog.remove_copy(generation, store))

    def _to_log(self, event: TaskEvent) -> None:  # noqa: C901, PLR0912 - one case for each kind of event
        log = self._log
        match event:
            case SnapshotRetried(source, why):
                log.warning(Event.SNAPSHOT_RETRIED, why, source=source)
            case SnapshotQuarantined(why, directory):
                log.error(Event.SNAPSHOT_QUARANTINED, why, quarantine=str(directory))
            case SourceUnchanged(manifest):
                what = f"{manifest.source} is what {manifest.id} holds: verified unchanged"
                log.info(Event.SNAPSHOT_UNCHANGED, what, generation=manifest.id)
            case PruningHeld(hold):
                if hold.kind == "shrink":
                    log.warning(Event.SOURCE_SHRUNK, hold.reason, source=hold.source)
                what = f"pruning of {hold.source} is on hold: {hold.reason}"
                log.warning(Event.PRUNING_HELD, what, source=hold.source)
            case PruningReleased(source, by_operator=True):
                log.warning(Event.PRUNING_RELEASED, f"an operator released the pruning of {source}", source=source)
            case PruningReleased(source):
                log.info(Event.PRUNING_RELEASED, f"{source} is good again: it is pruned again", source=source)
            case GenerationPublished(manifest):
                log.info(
                    Event.GENERATION_PUBLISHED,
                    f"published {manifest.id}, verified {manifest.verdict.level}",
                    generation=manifest.id,
                    archive_bytes=manifest.archive.size_bytes,
                    archive_sha256=manifest.archive.sha256,
                )
            case GenerationSent(manifest, store, transfer):
                log.info(
                    Event.GENERATION_SENT,
                    f"{manifest.id} is at {store}, and equal ({transfer.verified_by})",
                    generation=manifest.id,
                    store=store,
                    sent_bytes=transfer.sent_bytes,
                    resumed_bytes=transfer.resumed_bytes,
                    verified_by=transfer.verified_by,
                )
            case CopyVerified(generation, store, sound=False, detail=detail):
                where = "" if store == LOCAL_STORE else f" at {store}"
                log.error(
                    Event.GENERATION_DAMAGED, f"{generation}{where}: {detail}", generation=generation, store=store
                )
            case GenerationRemoved(generation, store, reason):
                remote = {} if store == LOCAL_STORE else {"store": store}
                what = f"removed {generation}{f' at {store}' if remote else ''}: {reason}"
                log.info(Event.GENERATION_REMOVED, what, generation=generation, reason=reason, **remote)
            case GenerationPinned(pin):
                until = f"{pin.until:%F %T} UTC" if pin.until else "it is released"
                log.info(
                    Event.GENERATION_PINNED,
                    f"{pin.generation} is pinned until {until}: {pin.reason}",
                    generation=pin.generation,
                    reason=pin.reason,
                    until=pin.until.isoformat() if pin.until else None,
                    label=pin.label or None,
                )
            case GenerationUnpinned(generation, reason):
                what = f"{generation} is no longer pinned: {reason}"
                log.info(Event.GENERATION_UNPINNED, what, generation=generation, reason=reason)
