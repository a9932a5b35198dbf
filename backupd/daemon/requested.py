"""Backups that clients request over HTTP: bounded, remembered for a day, and run by the queue of the schedule.

They are kept in memory only. A daemon that has restarted knows none, and a client requests its backup again: of a
database that has not changed since, that is the same generation.
"""

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final

from backupd.daemon.task_queue import TaskQueues, TaskRequest, TaskResult
from backupd.log import Event
from backupd.remote.run import RemoteRun, RemoteSource
from backupd.report import AnyReport, BackupDetails
from backupd.tasks.context import TaskContext
from backupd.web.door import RequestRefused, WantedBackup

MOST_ACTIVE: Final = 4
MOST_AN_HOUR: Final = 30
_HOUR_S: Final = 3600.0
_REMEMBERED_S: Final = 24 * _HOUR_S
_SOON_S: Final = 10.0
_STANDBY_S: Final = 30.0


@dataclass(slots=True)
class _Requested:
    """A request and how its run stands; `done` is done when that has ended, or will not."""

    run: RemoteRun
    wanted: WantedBackup
    key: str
    done: Future[None] = field(default_factory=Future)
    dropped: bool = False
    ended_s: float = 0.0  # monotonic

    def __post_init__(self) -> None:
        self.done.set_running_or_notify_cancel()  # a client that leaves cancels it for no other


class RequestedBackups:
    """The backups that clients have requested; see `web.door.Backups`. Each method may be called from any thread.

    `owns` tells whether this daemon runs the tasks of a source.
    """

    def __init__(
        self,
        sources: tuple[str, ...],
        queues: TaskQueues,
        owns: Callable[[str], bool],
        context: TaskContext,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources, self._queues, self._owns, self._context = sources, queues, owns, context
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: dict[str, _Requested] = {}  # by id of run
        self._accepted_s = deque[float](maxlen=MOST_AN_HOUR)

    def request(self, wanted: WantedBackup, key: str, client: str) -> RemoteRun:
        """Queue the backups, unless a request with the same `key` has. Raises RequestRefused."""
        with self._lock:
            self._forget()
            if key and (same := next((one for one in self._known.values() if one.key == key), None)):
                return _repeated(same, wanted)
            sources = self._wanted_sources(wanted)
            self._require_room()
            pin = self._context.log.mask.of(wanted.pin)  # a label is shown wherever its generation is
            label = pin.label if pin else ""
            run = RemoteRun(
                id=secrets.token_hex(16),
                requested_at=self._context.clock(),
                label=label,
                sources=tuple(RemoteSource(source=source) for source in sources),
            )
            self._known[run.id] = _Requested(run, wanted, key)
            self._accepted_s.append(self._monotonic())
        by = f"requested over HTTP by {client}" + (f": {label}" if label else "")
        requests = [TaskRequest("backup", source, run.id, pin) for source in sources]
        for request in requests:
            self._context.log.info(
                Event.RUN_REQUESTED, f"{request} was {by}", run=run.id, label=label or None, **request.fields()
            )
        queued = self._queues.submit(*requests, observer=self)
        for request in requests:
            if request not in queued:
                self.dropped(request)
        return self.find(run.id) or run

    def find(self, run_id: str) -> RemoteRun | None:
        """Return how a run stands, None for an unknown one. Raises RequestRefused where it will not run."""
        with self._lock:
            self._forget()
            found = self._known.get(run_id)
            if found is not None and found.dropped:
                raise _stopping()
            return found.run if found else None

    def done(self, run_id: str) -> Future[None]:
        """Return what is done as soon as the run of that id has ended, or will not run, and at once for no run."""
        with self._lock:
            if found := self._known.get(run_id):
                return found.done
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def began(self, request: TaskRequest) -> None:
        """Note that the backup of a source begins."""
        self._change(request, lambda source: replace(source, state="running"))

    def ended(self, request: TaskRequest, result: TaskResult) -> None:
        """Note how the backup of a source has ended, and whether its pruning is on hold now."""
        hold = self._context.holds.get(request.source)
        report = self._context.log.mask.of(result.report)
        reason = self._context.log.mask(hold.reason) if hold else None
        self._change(request, lambda source: replace(_reported(source, report), state="ended", hold=reason))

    def dropped(self, request: TaskRequest) -> None:
        """Note that the backup of a source will not run: the daemon stops."""
        with self._lock:
            if found := self._known.get(request.run_id):
                found.dropped = True
                _finish(found)

    def _change(self, request: TaskRequest, change: Callable[[RemoteSource], RemoteSource]) -> None:
        with self._lock:
            found = self._known[request.run_id]
            sources = tuple(change(one) if one.source == request.source else one for one in found.run.sources)
            found.run = replace(found.run, sources=sources)
            if found.run.state == "ended":
                found.run = replace(found.run, ended_at=self._context.clock())
                found.ended_s = self._monotonic()
                _finish(found)

    def _wanted_sources(self, wanted: WantedBackup) -> tuple[str, ...]:
        """Return what to back up. Raises RequestRefused for an unknown source, and for one of another daemon."""
        if not set(wanted.sources) <= set(self._sources):
            raise RequestRefused(
                HTTPStatus.UNPROCESSABLE_ENTITY, "unknown source", f"this backupd has: {', '.join(self._sources)}"
            )
        sources = tuple(dict.fromkeys(wanted.sources)) or self._sources
        if others := [source for source in sources if not self._owns(source)]:
            raise RequestRefused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"this backupd does not run the backups of {', '.join(others)} now: it has just started, or stands by",
                "request it again in a while; if it stays so, another backupd runs them: ask that one",
                _STANDBY_S,
            )
        return sources

    def _require_room(self) -> None:
        """Raise RequestRefused where too many requests are active, or were accepted within an hour."""
        if sum(not one.done.done() for one in self._known.values()) >= MOST_ACTIVE:
            raise RequestRefused(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{MOST_ACTIVE} requested backups wait or run",
                "wait for one of them to end",
                _SOON_S,
            )
        if len(self._accepted_s) < MOST_AN_HOUR:
            return
        free_in_s = self._accepted_s[0] + _HOUR_S - self._monotonic()
        if free_in_s > 0:
            raise RequestRefused(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{MOST_AN_HOUR} backups were requested within an hour",
                "wait, or let one request name all sources",
                free_in_s,
            )

    def _forget(self) -> None:
        """Forget what ended a day ago."""
        for one in list(self._known.values()):
            if one.run.state == "ended" and self._monotonic() - one.ended_s > _REMEMBERED_S:
                del self._known[one.run.id]


def _repeated(same: _Requested, wanted: WantedBackup) -> RemoteRun:
    """Return how the run of an earlier request stands. Raises RequestRefused where that wanted something else."""
    if same.wanted != wanted:
        raise RequestRefused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "this Idempotency-Key was used for another request",
            "use a new key for each backup",
        )
    if same.dropped:
        raise _stopping()
    return same.run


def _stopping() -> RequestRefused:
    return RequestRefused(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "backupd is being stopped, and this backup has not begun",
        "request it again, with the same key",
        _SOON_S,
    )


def _finish(found: _Requested) -> None:
    if not found.done.done():
        found.done.set_result(None)


def _reported(source: RemoteSource, report: AnyReport | None) -> RemoteSource:
    """Return what is known of a source once its run has left a report."""
    if report is None or not isinstance(report.details, BackupDetails):
        return source
    details = report.details
    return replace(
        source,
        outcome=report.outcome,
        generation=details.generation,
        verification=details.verification,
        archive_bytes=details.archive_bytes,
        archive_sha256=details.archive_sha256,
        snapshot_bytes=details.snapshot_bytes,
        snapshot_sha256=details.snapshot_sha256,
        exit_code=report.exit_code,
        error=report.error,
        hint=report.hint,
        warnings=report.warnings,
    )
