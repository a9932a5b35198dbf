"""Runs one task after the other, each in a process of its own, and remembers the results."""

import os
import pickle
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable
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
from backupd.report import AnyReport, BackupDetails, failed_backup, report_from_json
from backupd.system.os_errors import os_error_hint, os_error_text
from backupd.system.process import close_input, send, start_module
from backupd.tasks.requests import PinRequest

# Beside the tasks of a schedule; neither has a source.
DOCTOR: Final = "doctor"
REBUILD: Final = "rebuild"
# A run that is stopped cleans up for so long; then it is killed, and the next run sweeps what it left.
STOP_GRACE_S: Final = 4.0
_REMOTE: Final = ("replicate", "drill")
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

    def fields(self) -> dict[str, str | None]:
        """Return the fields of its log lines."""
        return {"task": self.task, "source": self.source or None}


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a run ended; kept in memory, since the catalog may be unusable at that moment."""

    began_at: datetime
    ended_at: datetime
    exit_code: int
    report: AnyReport | None = None  # of a backup that a client has requested

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
        self._current: TaskRequest | None = None
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

    def submit(self, request: TaskRequest, observer: RunObserver | None = None) -> bool:
        """Queue `request`, and return whether it was queued.

        Not where it waits or runs already, nor one of the schedule where a client has requested the same. What a client
        has requested precedes the schedule, and replaces the same that waits: none of them loses its pin.
        """
        with self._changed:
            known = [*self._waiting, *filter(None, [self._current])]
            if self._stopping or request in known or request in (one.scheduled for one in known):
                return False
            if request.run_id:
                others = [one for one in self._waiting if one != request.scheduled]
                first = sum(bool(one.run_id) for one in others)
                self._waiting = deque([*others[:first], request, *others[first:]])
            else:
                self._waiting.append(request)
            if observer is not None:
                self._observers[request] = observer
            self._changed.notify_all()
            return True

    def results(self, request: TaskRequest) -> tuple[TaskResult, ...]:
        """Return the last success of `request` and the failures since then, oldest first."""
        with self._changed:
            return self._results.get(request, ())

    def idle(self) -> bool:
        """Return whether nothing runs or waits."""
        with self._changed:
            return not self._waiting and self._current is None

    def alive(self) -> bool:
        """Return whether the thread is alive."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop the current run and start no other; returns after little more than `STOP_GRACE_S`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            request, process = self._current, self._process
            dropped = [(one, self._observers.pop(one)) for one in self._waiting if one in self._observers]
        for one, observer in dropped:
            observer.dropped(one)
        if request is not None and process is not None:
            self._end(request, process, "the daemon stops")
        self._thread.join(1)

    def _work(self) -> None:
        while (request := self._next()) is not None:
            began_at, observer = self._clock(), self._observers.pop(request, None)
            if observer is not None:
                observer.began(request)
            exit_code, report = self._run(request, began_at)
            result = TaskResult(began_at, self._clock(), exit_code, report)
            with self._changed:
                self._current = self._process = None
                earlier = () if result.succeeded else self._results.get(request.scheduled, ())
                self._results[request.scheduled] = (*earlier, result)[-_RESULTS_KEPT:]
            if observer is not None:
                observer.ended(request, result)
            if request.source:  # after a rebuild that fails, the next attempt has to wait for the next minute
                self._on_end()

    def _next(self) -> TaskRequest | None:
        """Wait for a request; None once the queue stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            self._current = None if self._stopping else self._waiting.popleft()
            return self._current

    def _run(self, request: TaskRequest, began_at: datetime) -> tuple[int, AnyReport | None]:
        """Run `request` in a process; return its exit code, and, where a client has requested it, its report.

        A failure to start is logged, and has both as well.
        """
        with ExitStack() as stack:
            exit_code, outcome = self._watch(request, stack)
        if not request.run_id:
            return exit_code, None
        if isinstance(outcome, BackupdError):
            return exit_code, failed_backup(request.source, began_at, outcome)
        return exit_code, outcome

    def _watch(self, request: TaskRequest, stack: ExitStack) -> tuple[int, AnyReport | BackupdError]:
        """Run the process; return its exit code, and its report, or why there is none."""
        try:
            process, report_to = self._start(request, stack)
        except ProcessRefused as error:
            return self._failed_to_start(request, error.message, error.hint)
        except OSError as error:
            return self._failed_to_start(request, os_error_text(error), os_error_hint(error))
        with self._changed:
            self._process, stopping = process, self._stopping
        if stopping:
            self._end(request, process, "the daemon stops")
        failure: BackupdError = WorkerFailed(f"the {request} ended without a report", "see backup.log")
        try:
            process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            why = f"it did not end within {human_duration(self._timeout_s)}"
            failure = WorkerHung(f"the {request} was stopped: {why}", "see backup.log; a hung disk or mount is likely")
            self._end(request, process, why, signal.SIGALRM)
        finally:
            close_input(process)
        code = process.returncode
        if code is None:  # it hangs in the kernel, where not even SIGKILL ends it
            return TemporaryError.exit_code, failure
        if self._stopping:
            failure = Terminated(f"the {request} was cut off: the daemon stops", "request it again")
        elif code < 0:
            what = f"the {request} was killed by {signal.Signals(-code).name}"
            failure = WorkerFailed(what, "see dmesg: too little memory is likely")
            self._log.error(Event.RUN_FAILED, failure.message, hint=failure.hint, **request.fields())
        return code, _report_in(report_to, request) or failure

    def _start(self, request: TaskRequest, stack: ExitStack) -> tuple[subprocess.Popen[bytes], int | None]:
        """Start the process of a run, with the secrets that it needs, and the process that sends its pings.

        Returns the file in memory that gets the report of a run that a client has requested, too: what is in it is not
        lost where the process ends first. File and ping process end with `stack`.
        """
        config = withhold_secrets(self._config, secrets_of_task(self._config, request.task, request.source))
        descriptors: tuple[int, ...] = ()
        report_to = None
        if request.run_id:
            report_to = os.memfd_create("report")
            stack.callback(os.close, report_to)
            descriptors = (report_to,)
        if request.source and (monitors := monitors_of_runs(self._config)):
            helper, pinging = start_ping_helper(monitors, mask_of(self._config), os.environ)
            stack.callback(_end_helper, pinging)
            config, descriptors = config.with_ping_helper(helper), (*descriptors, helper.to, helper.back)
        arguments = ("backupd.daemon.task_process", request.task, request.source)
        process = start_module(*arguments, stdout=None, descriptors=descriptors)
        send(process, pickle.dumps((config, request.pin, report_to)))
        return process, report_to

    def _failed_to_start(self, request: TaskRequest, why: str, hint: str) -> tuple[int, BackupdError]:
        error = ProcessRefused(f"the {request} could not start: {why}", hint)
        self._log.error(Event.RUN_FAILED, error.message, hint=hint, **request.fields())
        return error.exit_code, error

    def _end(
        self, request: TaskRequest, process: subprocess.Popen[bytes], why: str, by: signal.Signals = signal.SIGTERM
    ) -> None:
        """Let a run clean up, and kill it when that takes too long."""
        self._log.warning(Event.RUN_STOPPED, f"stopping the {request}: {why}", **request.fields())
        process.send_signal(by)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_GRACE_S)
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)


def _report_in(descriptor: int | None, request: TaskRequest) -> AnyReport | None:
    """Return the report that the process of `request` left, None where it left none, or that of something else."""
    if descriptor is None:
        return None
    try:
        found = report_from_json(os.pread(descriptor, _REPORT_BYTES, 0).decode())
    except (ValueError, OSError):
        return None
    is_its_own = (found.task, found.subject) == (request.task, request.source)
    return found if is_its_own and isinstance(found.details, BackupDetails) else None


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

    def submit(self, request: TaskRequest, observer: RunObserver | None = None) -> bool:
        """Queue `request`, unless it waits or runs already; return whether it was queued."""
        return self._queue(request).submit(request, observer)

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
