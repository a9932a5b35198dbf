"""Runs one task after the other, each in a process of its own, and remembers the results.

Backups of several sources that wait together are one process, which pins all of them before it copies the first; so are
drills, which restore one restore point.
"""

import os
import pickle
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from backupd.bootstrap.launch import monitors_of_runs, secrets_of_task
from backupd.config import Config, mask_of, withhold_secrets
from backupd.errors import BackupdError, ProcessRefused, TemporaryError, Terminated, WorkerFailed, WorkerHung
from backupd.formatting import human_duration
from backupd.log import Event, EventLog
from backupd.pings import start_ping_helper
from backupd.report import AnyReport, BackupDetails, DrillDetails, failed_backup, report_from_json
from backupd.system.os_errors import os_error_hint, os_error_text
from backupd.system.process import close_input, send, start_module
from backupd.tasks.requests import PinRequest

# Beside the tasks of a schedule; neither has a source.
DOCTOR: Final = "doctor"
REBUILD: Final = "rebuild"
# A run that is stopped cleans up for so long; then it is killed, and the next run sweeps what it left.
STOP_GRACE_S: Final = 4.0
_REMOTE: Final = ("replicate", "drill")
_TOGETHER: Final = ("backup", "drill")  # those of several sources make, or restore, one restore point
_SUCCESSES: Final = (0, 3)
_RESULTS_KEPT: Final = 20
_REPORT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A task (or `doctor`, `rebuild`) and its source or replica, if any."""

    task: str
    source: str = ""
    run_id: str = ""  # of a backup that a client has requested, which is another one than that of the schedule
    pin: PinRequest | None = None

    def __str__(self) -> str:
        return f"{self.task} of {self.source}" if self.source else self.task

    @property
    def scheduled(self) -> "TaskRequest":
        """The request of the schedule that this one makes superfluous."""
        return TaskRequest(self.task, self.source)

    def goes_with(self, other: "TaskRequest") -> bool:
        """Return whether one process does both: drills, and backups of the schedule or of one request of a client."""
        same = (self.task, self.run_id, self.pin) == (other.task, other.run_id, other.pin)
        return same and self.task in _TOGETHER

    def fields(self) -> dict[str, str | None]:
        """Return the fields of its log lines."""
        return {"task": self.task, "source": self.source or None}


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a run ended; kept in memory, since the catalog may be unusable at that moment."""

    began_at: datetime
    ended_at: datetime
    exit_code: int
    report: AnyReport | None = None  # of a backup that a client has requested, or of one of several

    @property
    def succeeded(self) -> bool:
        """Whether it succeeded, with or without warnings."""
        return self.exit_code in _SUCCESSES


class RunObserver(Protocol):
    """Learns what becomes of a request, in the thread of the queue or of who stops it; must be quick and not raise."""

    def began(self, request: TaskRequest) -> None:
        """Learn that its run begins."""

    def ended(self, request: TaskRequest, result: TaskResult) -> None:
        """Learn how its run has ended."""

    def dropped(self, request: TaskRequest) -> None:
        """Learn that it will not run: the queue stops."""


class TaskQueue:
    """A queue of requests, and one thread that runs them; each method may be called from any thread."""

    def __init__(self, config: Config, log: EventLog, clock: Callable[[], datetime]) -> None:
        self._config, self._log, self._clock = config, log, clock
        self._timeout_s = config.schedule.run_timeout_s
        self._changed = threading.Condition()
        self._waiting: deque[TaskRequest] = deque()
        self._current: tuple[TaskRequest, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._results: dict[TaskRequest, tuple[TaskResult, ...]] = {}
        self._observers: dict[TaskRequest, RunObserver] = {}
        self._on_end: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._work, name="tasks", daemon=True)

    def start(self, on_end: Callable[[], None] = lambda: None) -> None:
        """Start the thread, which calls `on_end` after each run that has a source; it must be quick and not raise."""
        self._on_end = on_end
        self._thread.start()

    def submit(self, *requests: TaskRequest, observer: RunObserver | None = None) -> tuple[TaskRequest, ...]:
        """Queue `requests`, which one process does if they go together; return those that were queued.

        Not where it waits or runs already, nor one of the schedule where a client has requested the same. What a client
        has requested precedes the schedule, and replaces the same that waits: none of them loses its pin.
        """
        with self._changed:
            queued = tuple(request for request in requests if self._queue(request))
            if observer is not None:
                self._observers.update(dict.fromkeys(queued, observer))
            self._changed.notify_all()
            return queued

    def _queue(self, request: TaskRequest) -> bool:
        known = [*self._waiting, *self._current]
        if self._stopping or request in known or request in (one.scheduled for one in known):
            return False
        if request.run_id:
            others = [one for one in self._waiting if one != request.scheduled]
            first = sum(bool(one.run_id) for one in others)
            self._waiting = deque([*others[:first], request, *others[first:]])
        else:
            self._waiting.append(request)
        return True

    def results(self, request: TaskRequest) -> tuple[TaskResult, ...]:
        """Return the last success of `request` and the failures since then, oldest first."""
        with self._changed:
            return self._results.get(request, ())

    def idle(self) -> bool:
        """Return whether nothing runs or waits."""
        with self._changed:
            return not self._waiting and not self._current

    def alive(self) -> bool:
        """Return whether the thread is alive."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop the current run and start no other; returns after little more than `STOP_GRACE_S`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            requests, process = self._current, self._process
            dropped = [(one, self._observers.pop(one)) for one in self._waiting if one in self._observers]
        for one, observer in dropped:
            observer.dropped(one)
        if requests and process is not None:
            self._end(requests, process, "the daemon stops")
        self._thread.join(1)

    def _work(self) -> None:
        while requests := self._next():
            began_at = self._clock()
            observers = {one: self._observers.pop(one) for one in requests if one in self._observers}
            for request, observer in observers.items():
                observer.began(request)
            ended = self._run(requests, began_at)
            ended_at = self._clock()
            results = {one: TaskResult(began_at, ended_at, *ended[one]) for one in requests}
            with self._changed:
                self._current, self._process = (), None
                for request, result in results.items():
                    earlier = () if result.succeeded else self._results.get(request.scheduled, ())
                    self._results[request.scheduled] = (*earlier, result)[-_RESULTS_KEPT:]
            for request, observer in observers.items():
                observer.ended(request, results[request])
            if requests[0].source:  # after a rebuild that fails, the next attempt has to wait for the next minute
                self._on_end()

    def _next(self) -> tuple[TaskRequest, ...]:
        """Wait for a request, and return it with all that go with it; nothing once the queue stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            if self._stopping:
                self._current = ()
            else:
                first = self._waiting.popleft()
                self._current = (first, *(one for one in self._waiting if one.goes_with(first)))
                self._waiting = deque(one for one in self._waiting if one not in self._current)
            return self._current

    def _run(
        self, requests: Sequence[TaskRequest], began_at: datetime
    ) -> Mapping[TaskRequest, tuple[int, AnyReport | None]]:
        """Run `requests` in a process; return the exit code of each, and its report.

        A single one of the schedule leaves none. A failure to start is logged, and has both as well.
        """
        with ExitStack() as stack:
            exit_code, reports, failure = self._watch(requests, stack)
        if not _leaves_reports(requests):
            return {requests[0]: (exit_code, None)}
        ended = dict[TaskRequest, tuple[int, AnyReport | None]]()
        for request in requests:
            report = reports.get(request.source)
            if report is not None:
                ended[request] = (report.exit_code, report)
            else:
                ended[request] = (exit_code or failure.exit_code, failed_backup(request.source, began_at, failure))
        return ended

    def _watch(
        self, requests: Sequence[TaskRequest], stack: ExitStack
    ) -> tuple[int, Mapping[str, AnyReport], BackupdError]:
        """Run the process; return its exit code, its reports by source, and why one is missing."""
        what = named(requests)
        try:
            process, report_to = self._start(requests, stack)
        except ProcessRefused as error:
            return self._failed_to_start(requests, error.message, error.hint)
        except OSError as error:
            return self._failed_to_start(requests, os_error_text(error), os_error_hint(error))
        with self._changed:
            self._process, stopping = process, self._stopping
        if stopping:
            self._end(requests, process, "the daemon stops")
        failure: BackupdError = WorkerFailed(f"the {what} ended without a report", "see backup.log")
        timeout_s = self._timeout_s * len(requests)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            why = f"it did not end within {human_duration(timeout_s)}"
            failure = WorkerHung(f"the {what} was stopped: {why}", "see backup.log; a hung disk or mount is likely")
            self._end(requests, process, why, signal.SIGALRM)
        finally:
            close_input(process)
        code = process.returncode
        if code is None:  # it hangs in the kernel, where not even SIGKILL ends it
            return TemporaryError.exit_code, {}, failure
        if self._stopping:
            failure = Terminated(f"the {what} was cut off: the daemon stops", "request it again")
        elif code < 0:
            cause = f"the {what} was killed by {signal.Signals(-code).name}"
            failure = WorkerFailed(cause, "see dmesg: too little memory is likely")
            self._log.error(Event.RUN_FAILED, failure.message, hint=failure.hint, **fields_of(requests))
        return code, _reports_in(report_to, requests), failure

    def _start(self, requests: Sequence[TaskRequest], stack: ExitStack) -> tuple[subprocess.Popen[bytes], int | None]:
        """Start the process of a run, with the secrets that it needs, and the process that sends its pings.

        Returns the file in memory that gets the reports, where somebody asks for them: what is in it is not lost where
        the process ends first. File and ping process end with `stack`.
        """
        request = requests[0]
        config = withhold_secrets(self._config, secrets_of_task(self._config, request.task, request.source))
        descriptors: tuple[int, ...] = ()
        report_to = None
        if _leaves_reports(requests):
            report_to = os.memfd_create("report")
            stack.callback(os.close, report_to)
            descriptors = (report_to,)
        if request.source and (monitors := monitors_of_runs(self._config)):
            helper, pinging = start_ping_helper(monitors, mask_of(self._config), os.environ)
            stack.callback(_end_helper, pinging)
            config, descriptors = config.with_ping_helper(helper), (*descriptors, helper.to, helper.back)
        arguments = ("backupd.daemon.task_process", request.task, *(one.source for one in requests))
        process = start_module(*arguments, stdout=None, descriptors=descriptors)
        send(process, pickle.dumps((config, request.pin, report_to)))
        return process, report_to

    def _failed_to_start(
        self, requests: Sequence[TaskRequest], why: str, hint: str
    ) -> tuple[int, Mapping[str, AnyReport], BackupdError]:
        error = ProcessRefused(f"the {named(requests)} could not start: {why}", hint)
        self._log.error(Event.RUN_FAILED, error.message, hint=hint, **fields_of(requests))
        return error.exit_code, {}, error

    def _end(
        self,
        requests: Sequence[TaskRequest],
        process: subprocess.Popen[bytes],
        why: str,
        by: signal.Signals = signal.SIGTERM,
    ) -> None:
        """Let a run clean up, and kill it when that takes too long."""
        self._log.warning(Event.RUN_STOPPED, f"stopping the {named(requests)}: {why}", **fields_of(requests))
        process.send_signal(by)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_GRACE_S)
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)


def named(requests: Sequence[TaskRequest]) -> str:
    """Return what a process does, in words."""
    first, more = requests[0], len(requests) - 1
    return f"{first} and {more} more" if more else str(first)


def fields_of(requests: Sequence[TaskRequest]) -> dict[str, str | None]:
    """Return the fields of a log line about a process; with several sources none is named."""
    return requests[0].fields() if len(requests) == 1 else {"task": requests[0].task, "source": None}


def _leaves_reports(requests: Sequence[TaskRequest]) -> bool:
    return bool(requests[0].run_id) or len(requests) > 1


def _reports_in(descriptor: int | None, requests: Sequence[TaskRequest]) -> dict[str, AnyReport]:
    """Return the reports that the process of `requests` left, by source, without those of something else."""
    found = dict[str, AnyReport]()
    if descriptor is None:
        return found
    wanted = {(request.task, request.source) for request in requests}
    with suppress(OSError):
        for line in os.pread(descriptor, _REPORT_BYTES * len(requests), 0).splitlines():
            with suppress(ValueError):
                report = report_from_json(line.decode())
                if (report.task, report.subject) in wanted and isinstance(report.details, BackupDetails | DrillDetails):
                    found[report.subject] = report
    return found


def _end_helper(helper: subprocess.Popen[bytes]) -> None:
    """End the process that pings: the run that it pinged for has ended."""
    helper.kill()
    helper.communicate()


@dataclass(frozen=True, slots=True)
class TaskQueues:
    """One queue for replications and drills, which wait for a network, and one for all else; see `TaskQueue`."""

    local: TaskQueue
    remote: TaskQueue

    def start(self, on_end: Callable[[], None]) -> None:
        """Start both; either thread calls `on_end`."""
        self.local.start(on_end)
        self.remote.start(on_end)

    def submit(self, *requests: TaskRequest, observer: RunObserver | None = None) -> tuple[TaskRequest, ...]:
        """Queue those of `requests` that neither wait nor run already; return them. See `TaskQueue.submit`."""
        queued = set[TaskRequest]()
        for queue in (self.local, self.remote):
            queued.update(queue.submit(*(one for one in requests if self._queue(one) is queue), observer=observer))
        return tuple(one for one in requests if one in queued)

    def results(self, request: TaskRequest) -> tuple[TaskResult, ...]:
        """Return the last success of `request` and the failures since then, oldest first."""
        return self._queue(request).results(request)

    def idle(self) -> bool:
        """Return whether nothing runs or waits."""
        return self.local.idle() and self.remote.idle()

    def alive(self) -> bool:
        """Return whether both threads are alive."""
        return self.local.alive() and self.remote.alive()

    def stop(self) -> None:
        """Stop both at the same time, so that it takes no longer than one."""
        other = threading.Thread(target=self.remote.stop, name="stop")
        try:
            other.start()
        except RuntimeError:  # the system allows no further thread: one after the other
            self.remote.stop()
        self.local.stop()
        if other.ident is not None:
            other.join()

    def _queue(self, request: TaskRequest) -> TaskQueue:
        return self.remote if request.task in _REMOTE else self.local
