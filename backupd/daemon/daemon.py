"""The daemon: once a minute it finds what is due for the sources that it has claimed, and submits it."""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from backupd import errors
from backupd.catalog import open_catalog, read_catalog
from backupd.catalog.catalog import Catalog
from backupd.daemon.scheduler import STALLED_S, Scheduler
from backupd.daemon.task_queue import DOCTOR, REBUILD, TaskQueues, TaskRequest
from backupd.log import Event
from backupd.model import CLOCK_TOLERANCE, Task
from backupd.schedule import Due, Planned, TaskHistory
from backupd.status.current import due_run
from backupd.system.file_lock import file_lock
from backupd.system.os_errors import os_error_hint, os_error_text
from backupd.system.small_file import UnexpectedFile
from backupd.tasks.context import TaskContext

# A generation about to be made should be in the next replication, and one about to be sent in the next drill.
_WAITS_FOR: Mapping[Task, frozenset[Task]] = {
    "replicate": frozenset({"backup"}),
    "drill": frozenset({"backup", "replicate"}),
}
_CHECK_EVERY_S: Final = 60.0


class Daemon:
    """A scheduler and task queues for one store.

    `needs_restart` is asked every minute whether the daemon should start again; `on_end` is called after each run.
    """

    def __init__(
        self,
        planned: tuple[Planned, ...],
        queues: TaskQueues,
        context: TaskContext,
        needs_restart: Callable[[], bool] = lambda: False,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._planned, self._queues, self._context = planned, queues, context
        self._needs_restart, self._on_end = needs_restart, on_end
        self._scheduler = Scheduler(self._tick, self._tick_failed)
        self._claims = SourceClaims((one.source for one in planned), context.store.hidden)
        self._owned = frozenset[str]()
        self._last_warning: tuple[Event, str] | None = None
        self._digest = ""
        self._reconfigured_at = context.clock()

    def run(self, stop: threading.Event) -> bool:
        """Run until `stop` is set, then end the current runs and release the claims; return whether to start again."""
        self._queues.start(self._run_ended)
        self._queues.submit(TaskRequest(DOCTOR))
        self._scheduler.start()
        restart = False
        while not restart and not stop.wait(_CHECK_EVERY_S):
            if self._scheduler.replace_if_stalled():
                what = f"the scheduler did not fire for {STALLED_S:.0f} s and was replaced"
                why = "the clock was set back, or a thread died"
                self._context.log.warning(Event.SCHEDULER_STALLED, f"{what}: {why}")
            restart = self._needs_restart()
        self._scheduler.stop()
        self._queues.stop()
        self._claims.release_all()
        return restart

    def owns(self, source: str) -> bool:
        """Return whether this daemon held the claim on `source` at its last tick."""
        return source in self._owned

    def is_free(self, source: str) -> bool:
        """Return whether no other daemon holds the claim on a source, which need not be configured."""
        return self._claims.is_free(source)

    def alive(self) -> tuple[str, ...]:
        """Return what does not work of scheduler, task queues and catalog, without paths; empty when all do."""
        found = []
        if self._scheduler.age_s() > STALLED_S:
            found.append(f"the scheduler has not fired for {self._scheduler.age_s():.0f} s")
        if not self._queues.alive():
            found.append("a task queue has stopped")
        try:
            with read_catalog(self._context.catalog_path) as catalog:
                catalog.runs(limit=1)
        except (errors.CatalogDiskError, errors.CatalogForeign):
            pass  # a restart would not help: log, status and metrics report it
        except errors.CatalogUnavailable:
            found.append("the catalog cannot be used")
        return tuple(found)

    def _run_ended(self) -> None:
        self._scheduler.fire_soon()  # tasks that waited for this run start before the next minute
        self._on_end()

    def _tick(self) -> None:
        self._context.store.prepare()
        owned = self._owned = self._claims.acquire()
        ready = self._all_due([one for one in self._planned if one.source in owned])
        tasks = {planned.task for planned, _ in ready}
        reasons = {
            TaskRequest(planned.task, planned.source): f"{planned} is due: {due.reason}"
            for planned, due in ready
            if not waits(planned.task, tasks)
        }
        for request in self._queues.submit(*reasons):
            self._context.log.info(Event.RUN_DUE, reasons[request], **request.fields())

    def _all_due(self, planned: list[Planned]) -> list[tuple[Planned, Due]]:
        """Return what has to run now; without a usable catalog, by what this daemon remembers."""
        try:
            with open_catalog(self._context.catalog_path) as catalog:
                catalog.hold_one_state()
                found = [(one, self._due(one, catalog)) for one in planned]
            self._log_standby()
        except errors.CatalogUnavailable as error:
            self._warn_once(Event.CATALOG_UNAVAILABLE, error.message, error.hint)
            if isinstance(error, errors.CatalogDamaged):
                self._queues.submit(TaskRequest(REBUILD))
            found = [(one, self._due(one, None)) for one in planned]
        now = self._context.clock()
        return [(one, due) for one, due in found if due.at <= now]

    def _due(self, planned: Planned, catalog: Catalog | None) -> Due:
        remembered = partial(self._remembered, planned)
        return due_run(planned, catalog, self._configuration, self._context.clock(), remembered)

    def _configuration(self) -> str:
        """Return the digest of the current configuration; runs that failed before it changed count no more."""
        digest = self._context.configuration()
        if self._digest not in ("", digest):
            self._reconfigured_at = self._context.clock()
        self._digest = digest
        return digest

    def _remembered(self, planned: Planned) -> TaskHistory:
        latest = self._context.clock() + CLOCK_TOLERANCE  # runs that a clock running ahead dated do not count
        results = self._queues.results(TaskRequest(planned.task, planned.source))
        ended = [run for run in results if run.began_at <= latest]
        succeeded = [run.began_at for run in ended if run.succeeded]
        failed = (run.ended_at for run in ended if not run.succeeded and run.began_at >= self._reconfigured_at)
        return TaskHistory(max(succeeded, default=None), tuple(failed))

    def _log_standby(self) -> None:
        if unusable := self._claims.unusable:
            error = next(iter(unusable.values()))
            what = f"tasks of {', '.join(unusable)} do not run: {os_error_text(error)}"
            self._warn_once(Event.TICK_FAILED, what, os_error_hint(error))
        elif others := self._claims.held_by_others():
            what = f"another daemon owns {', '.join(others)}: standing by"
            self._warn_once(Event.DAEMON_STANDBY, what, "nothing, while a deploy replaces it; else stop one of the two")
        else:
            self._last_warning = None

    def _tick_failed(self, error: Exception) -> None:
        hint = (
            error.hint
            if isinstance(error, errors.BackupdError)
            else "check the disk, and the permissions of backups_dir"
        )
        self._warn_once(Event.TICK_FAILED, f"cannot determine what is due: {error}", hint)

    def _warn_once(self, event: Event, message: str, hint: str) -> None:
        """Log a warning when it begins, and not again each minute."""
        if (event, message) != self._last_warning:
            self._context.log.warning(event, message, hint=hint)
        self._last_warning = event, message


def waits(task: Task, due: Iterable[Task]) -> bool:
    """Return whether `task` has to wait for another task that is due; after a failure that is not due for a while."""
    return not _WAITS_FOR.get(task, frozenset()).isdisjoint(due)


class SourceClaims:
    """The claims of this daemon on `subjects` (sources and replicas): locks that it holds for as long as it lives.

    In a rolling deploy the new daemon stands by until the old one ends; daemons of different sources can share a store.
    """

    def __init__(self, subjects: Iterable[str], directory: Path) -> None:
        self._subjects, self._directory = tuple(dict.fromkeys(subjects)), directory
        self._held: dict[str, tuple[ExitStack, int]] = {}
        self.unusable: dict[str, UnexpectedFile] = {}

    def acquire(self) -> frozenset[str]:
        """Claim what is free, and return all that this daemon holds; a claim whose file was removed is made again.

        A subject whose lock is something else, as a pipe, is `unusable`. Raises OSError when the directory does not
        exist.
        """
        self.unusable.clear()
        for subject in self._subjects:
            path = self._directory / f"daemon-{subject}.lock"
            if subject in self._held and not _is_file(path, self._held[subject][1]):
                self._held.pop(subject)[0].close()
            if subject not in self._held:
                self._claim(subject, path)
        return frozenset(self._held)

    def held_by_others(self) -> tuple[str, ...]:
        """Return the subjects that another daemon held at the last `acquire`."""
        return tuple(one for one in self._subjects if one not in self._held and one not in self.unusable)

    def is_free(self, subject: str) -> bool:
        """Return whether no other daemon holds the claim on `subject`, which need not be one of this daemon."""
        if subject in self._held:
            return True
        try:
            with file_lock(self._directory / f"daemon-{subject}.lock", "daemon"):
                return True
        except (errors.LockHeld, OSError):
            return False

    def release_all(self) -> None:
        """Release all claims."""
        for stack, _ in self._held.values():
            stack.close()
        self._held.clear()

    def _claim(self, subject: str, path: Path) -> None:
        stack = ExitStack()
        try:
            stack.enter_context(file_lock(path, "daemon"))
            self._held[subject] = stack, path.stat().st_ino
        except errors.LockHeld:
            stack.close()
        except UnexpectedFile as error:
            stack.close()
            self.unusable[subject] = error


def _is_file(path: Path, inode: int) -> bool:
    try:
        return path.stat().st_ino == inode
    except FileNotFoundError:
        return False
