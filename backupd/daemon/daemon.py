"""The daemon: asks every minute what is due, has it done, and answers for how it stands."""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from backupd.catalog import (
    CatalogDamaged,
    CatalogDiskError,
    CatalogForeign,
    CatalogUnavailable,
    open_catalog,
    read_catalog,
)
from backupd.catalog.catalog import Catalog
from backupd.daemon.scheduler import STALLED_S, Scheduler
from backupd.daemon.source_claims import SourceClaims
from backupd.daemon.task_queue import DOCTOR, REBUILD, TaskQueues, TaskRequest
from backupd.errors import BackupdError
from backupd.log import Event
from backupd.model import CLOCK_TOLERANCE, Task
from backupd.schedule import Due, Planned, TaskHistory
from backupd.status.current import due_run
from backupd.tasks.context import TaskContext

# What is about to be made ought to travel, and what is about to travel to be drilled.
_WAITS_FOR: Mapping[Task, frozenset[Task]] = {
    "replicate": frozenset({"backup"}),
    "drill": frozenset({"backup", "replicate"}),
}
_LOOK_EVERY_S: Final = 60.0


class Daemon:
    """Ticker and worker over one site.

    `outdated` is asked every minute whether all should begin anew; `on_end` hears of the end of each run.
    """

    def __init__(
        self,
        planned: tuple[Planned, ...],
        worker: TaskQueues,
        context: TaskContext,
        outdated: Callable[[], bool] = lambda: False,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_end = on_end
        self._planned, self._worker, self._context, self._outdated = planned, worker, context, outdated
        self._ticker = Scheduler(self._tick, self._tick_failed)
        self._stop = threading.Event()
        self._claims = SourceClaims((one.source for one in planned), context.store.hidden)
        self._mine = frozenset[str]()
        self._trouble: tuple[Event, str] | None = None
        self._digest = ""
        self._reconfigured_at = context.clock()

    def run(self) -> bool:
        """Work until `stop`; then end what is being done, and let go of the store.

        Returns whether it was outdated: then it ought to begin anew.
        """
        self._worker.start(self._ended)
        self._worker.submit(TaskRequest(DOCTOR))
        self._ticker.start()
        anew = False
        while not anew and not self._stop.wait(_LOOK_EVERY_S):
            if self._ticker.mend():
                what = f"nothing was fired for {STALLED_S:.0f} s (the clock was set back, or a thread died)"
                self._context.log.warning(Event.SCHEDULER_STALLED, f"{what}: the scheduler was replaced")
            anew = self._outdated()
        self._ticker.stop()
        self._worker.stop()
        self._claims.release_all()
        return anew

    def stop(self) -> None:
        """Let `run` return soon; from any thread or signal handler."""
        self._stop.set()

    def looks_after(self, source: str) -> bool:
        """Tell whether this daemon, and no other, did so when it last looked."""
        return source in self._mine

    def alive(self) -> tuple[str, ...]:
        """Return what does not work, of scheduler, worker and catalog, in words without paths."""
        found = []
        if self._ticker.age_s() > STALLED_S:
            found.append(f"the scheduler has not fired for {self._ticker.age_s():.0f} s")
        if not self._worker.alive():
            found.append("the worker has ended")
        try:
            with read_catalog(self._context.catalog_path) as catalog:
                catalog.runs(limit=1)
        except (CatalogDiskError, CatalogForeign):
            pass  # no restart makes room, or decides whose it is: log, status and metrics tell
        except CatalogUnavailable:
            found.append("the catalog cannot be used")
        return tuple(found)

    def _ended(self) -> None:
        self._ticker.hurry()  # what waited for a run need not wait for the next minute
        self._on_end()

    def _tick(self) -> None:
        self._context.store.prepare()
        mine = self._mine = self._claims.held()
        ready = self._all_due([one for one in self._planned if one.source in mine])
        tasks = {planned.task for planned, _ in ready}
        for planned, why in ready:
            if waits(planned.task, tasks):
                continue
            if self._worker.submit(TaskRequest(planned.task, planned.source)):
                task, source = planned.task, planned.source
                self._context.log.info(Event.RUN_DUE, f"{planned} is due: {why.reason}", task=task, source=source)

    def _all_due(self, mine: list[Planned]) -> list[tuple[Planned, Due]]:
        """Return what has to run now, as well as can be told without a catalog where that is out of order."""
        try:
            with open_catalog(self._context.catalog_path) as catalog:
                found = [(planned, self._due(planned, catalog)) for planned in mine]
            self._say_standby()
        except CatalogUnavailable as error:
            self._tell_once(Event.CATALOG_UNAVAILABLE, error.message, error.hint)
            if isinstance(error, CatalogDamaged):
                self._worker.submit(TaskRequest(REBUILD))
            found = [(planned, self._due(planned, None)) for planned in mine]
        now = self._context.clock()
        return [(planned, why) for planned, why in found if why.at <= now]

    def _due(self, planned: Planned, catalog: Catalog | None) -> Due:
        now = self._context.clock()
        return due_run(planned, catalog, self._configuration, now, lambda: self._remembered(planned))

    def _configuration(self) -> str:
        """Return the digest of the configuration of now; runs that failed before it changed count no more."""
        digest = self._context.configuration()
        if self._digest not in ("", digest):
            self._reconfigured_at = self._context.clock()
        self._digest = digest
        return digest

    def _remembered(self, planned: Planned) -> TaskHistory:
        latest = self._context.clock() + CLOCK_TOLERANCE  # runs that a clock running ahead dated do not count
        results = self._worker.ended(TaskRequest(planned.task, planned.source))
        ended = [run for run in results if run.began_at <= latest]
        succeeded = [run.began_at for run in ended if run.succeeded]
        failed = (run.ended_at for run in ended if not run.succeeded and run.began_at >= self._reconfigured_at)
        return TaskHistory(max(succeeded, default=None), tuple(failed))

    def _say_standby(self) -> None:
        others = self._claims.others()
        if not others:
            self._trouble = None
            return
        what = f"another daemon looks after {', '.join(others)}: standing by"
        self._tell_once(Event.DAEMON_STANDBY, what, "nothing, while a deploy replaces it; else stop one of the two")

    def _tick_failed(self, error: Exception) -> None:
        hint = error.hint if isinstance(error, BackupdError) else "check the disk and the rights of backups_dir"
        self._tell_once(Event.TICK_FAILED, f"could not find out what is due: {error}", hint)

    def _tell_once(self, event: Event, message: str, hint: str) -> None:
        """Log what is wrong when it begins, and not again each minute."""
        if (event, message) != self._trouble:
            self._context.log.warning(event, message, hint=hint)
        self._trouble = event, message


def waits(task: Task, due: Iterable[Task]) -> bool:
    """Tell whether `task`, which is due, has to wait for others that are; one that failed is not due for a while."""
    return not _WAITS_FOR.get(task, frozenset()).isdisjoint(due)
