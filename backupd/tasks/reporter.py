"""The one place that writes runs and events of tasks to backup.log and to the catalog."""

import os
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from backupd.catalog import CatalogUnavailable, CheckRecord, open_catalog
from backupd.log import Event, EventLog
from backupd.model import LOCAL_STORE
from backupd.report import AnyReport, describe, report_facts
from backupd.stores.local import DirectoryStore
from backupd.tasks.events import (
    CatalogUnusable,
    CopyForgotten,
    CopyVerified,
    GenerationPublished,
    GenerationSent,
    StoreListed,
    TaskEvent,
)

if TYPE_CHECKING:
    from backupd.catalog.catalog import Catalog

CATALOG_NAME: Final = "catalog.sqlite3"


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
            write = self._log.info if report.postponed else self._log.error
        facts = report_facts(report)
        facts["error.message"] = facts.pop("error")
        facts["event.outcome"] = "failure" if report.outcome == "failed" else "success"
        facts["event.duration"] = int(report.duration_s * 1e9)
        write(Event.RUN_FINISHED, describe(report), **facts)
        run_id, now = self._run_id, self._clock()
        if run_id is not None or os.path.lexists(self._catalog_path):
            self._write_catalog(lambda catalog: catalog.record_run(report, now, self._configuration, run_id))

    def _write_catalog(self, write: Callable[["Catalog"], object]) -> None:
        """Let `write` change the catalog, which is made where there is none."""
        try:
            with open_catalog(self._catalog_path) as catalog:
                write(catalog)
        except CatalogUnavailable as error:
            self(CatalogUnusable(error))

    def __call__(self, event: TaskEvent) -> None:
        """Write one event to the log and the catalog, as far as it concerns them."""
        for entry in event.entries():
            write: Callable[..., None] = getattr(self._log, entry.level)
            write(entry.event, entry.message, **entry.facts)
        now = self._clock()
        match event:
            case GenerationPublished(manifest):
                self._write_catalog(lambda catalog: catalog.add_generation(manifest, LOCAL_STORE))
            case GenerationSent(manifest, store):
                self._write_catalog(lambda catalog: catalog.add_generation(manifest, store))
            case CopyVerified(generation, store, sound, detail, duration_s):
                check = CheckRecord(generation, store, now, sound, self.mask(detail), duration_s)
                self._write_catalog(lambda catalog: catalog.record_check(check))
            case CopyForgotten(generation, store):
                self._write_catalog(lambda catalog: catalog.remove_copy(generation, store))
            case StoreListed():
                self._write_catalog(lambda catalog: _reconcile(event, catalog))


def _reconcile(listed: StoreListed, catalog: "Catalog") -> None:
    """Make the catalog list what is in the store: a kill or a full disk may have kept it from following."""
    known = {key for key, stores in catalog.copies().items() if listed.store in stores}
    for key in known - listed.present:
        catalog.remove_copy(key, listed.store)
    for key in listed.manifests.keys() - known:
        catalog.add_generation(listed.manifests[key], listed.store)
