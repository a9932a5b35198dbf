"""Does one run after the other, each in a process of its own, and remembers how it ended."""

import pickle
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from backupd.config import Config
from backupd.errors import ProcessRefused, TemporaryError
from backupd.formatting import human_duration
from backupd.log import Event, EventLog
from backupd.system.os_errors import os_error_hint, os_error_text
from backupd.system.process import close_input, send, start_module

_AWAY = ("replicate", "drill")


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a run ended, remembered for as long as the daemon lives: the catalog may be out of order just then."""

    began_at: datetime
    ended_at: datetime
    exit_code: int

    @property
    def succeeded(self) -> bool:
        """Whether it did what it was for, with or without warnings."""
        return self.exit_code in _SUCCESSES


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """Something to do: a task (or `doctor`, `rebuild`) and the source that it concerns, if any."""

    task: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.task} of {self.source}" if self.source else self.task


class TaskQueue:
    """A queue of jobs, and the one thread that does them; every method may be called from any thread."""

    def __init__(self, config: Config, log: EventLog, clock: Callable[[], datetime]) -> None:
        self._config, self._log, self._clock = config, log, clock
        self._timeout_s = config.schedule.run_timeout_s
        self._changed = threading.Condition()
        self._waiting: deque[TaskRequest] = deque()
        self._current: TaskRequest | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._ended: dict[TaskRequest, deque[TaskResult]] = {}
        self._on_end: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)

    def start(self, on_end: Callable[[], None] = lambda: None) -> None:
        """Begin to work; `on_end` hears, in the worker's thread, of the end of each job that concerns a source.

        It must neither raise nor take long.
        """
        self._on_end = on_end
        self._thread.start()

    def submit(self, job: TaskRequest) -> bool:
        """Queue `job`, unless it waits or is being done already; tells whether it was queued."""
        with self._changed:
            if self._stopping or job == self._current or job in self._waiting:
                return False
            self._waiting.append(job)
            self._changed.notify_all()
            return True

    def ended(self, job: TaskRequest) -> tuple[TaskResult, ...]:
        """Return how the last success of `job` and the failures since then ended, oldest first."""
        with self._changed:
            return tuple(self._ended.get(job, ()))

    def alive(self) -> bool:
        """Tell whether the thread is there, at work or waiting for some."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop what is being done and begin nothing more; returns after little more than `STOP_GRACE_S`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            job, process = self._current, self._process
        if job is not None and process is not None:
            self._end(job, process, "the daemon stops")
        self._thread.join(1)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            began_at = self._clock()
            exit_code = self._do(job)
            with self._changed:
                self._current = self._process = None
                runs = self._ended.setdefault(job, deque(maxlen=_RUNS_REMEMBERED))
                ended = TaskResult(began_at, self._clock(), exit_code)
                if ended.succeeded:
                    runs.clear()
                runs.append(ended)
            if job.source:  # else a rebuild that fails would be tried again at once, for ever
                self._on_end()

    def _next(self) -> TaskRequest | None:
        """Wait for a job; None when there will be none any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            self._current = None if self._stopping else self._waiting.popleft()
            return self._current

    def _do(self, job: TaskRequest) -> int:
        """Have `job` done and return its exit code; what kept it from being done is one too, and is told."""
        try:
            process = start_module("backupd.daemon.task_process", job.task, job.source, stdout=None)
            send(process, pickle.dumps(self._config))
        except ProcessRefused as error:
            self._tell(job, f"the {job} could not begin: {error.message}", error.hint)
            return error.exit_code
        except OSError as error:
            self._tell(job, f"the {job} could not begin: {os_error_text(error)}", os_error_hint(error))
            return TemporaryError.exit_code
        with self._changed:
            self._process = process
            stopping = self._stopping
        if stopping:
            self._end(job, process, "the daemon stops")
        try:
            process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            self._end(job, process, f"it did not end within {human_duration(self._timeout_s)}", signal.SIGALRM)
        finally:
            close_input(process)
        if process.returncode is None:
            return TemporaryError.exit_code  # not even SIGKILL ends it: it hangs in the kernel, and is left behind
        if process.returncode < 0 and not self._stopping:
            name = signal.Signals(-process.returncode).name
            self._tell(job, f"the {job} was killed by {name}", "see dmesg: too little memory is likely")
        return process.returncode

    def _end(
        self, job: TaskRequest, process: subprocess.Popen[bytes], why: str, by: signal.Signals = signal.SIGTERM
    ) -> None:
        """Let a run clean up, and kill it when it takes too long."""
        self._log.warning(Event.RUN_STOPPED, f"stopping the {job}: {why}", task=job.task, source=job.source or None)
        process.send_signal(by)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_GRACE_S)
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)

    def _tell(self, job: TaskRequest, what: str, hint: str) -> None:
        self._log.error(Event.RUN_FAILED, what, task=job.task, source=job.source or None, hint=hint)


@dataclass(frozen=True, slots=True)
class TaskQueues:
    """Replications and drills in one lane, all else in the other; see `TaskQueue`, whose methods these are."""

    here: TaskQueue
    away: TaskQueue

    def start(self, on_end: Callable[[], None]) -> None:
        """Begin to work; `on_end` hears of the end of each run of a source or to a replica, in either thread."""
        for worker in (self.here, self.away):
            worker.start(on_end)

    def submit(self, job: TaskRequest) -> bool:
        """Queue `job` in its lane, unless it waits or is being done already; tells whether it was queued."""
        return self._lane(job).submit(job)

    def ended(self, job: TaskRequest) -> tuple[TaskResult, ...]:
        """Return how the last success of `job` and the failures since then ended, oldest first."""
        return self._lane(job).ended(job)

    def alive(self) -> bool:
        """Tell whether both are there, at work or waiting for some."""
        return self.here.alive() and self.away.alive()

    def stop(self) -> None:
        """Stop both at the same time, so that it takes no longer than with one."""
        other = threading.Thread(target=self.away.stop, name="stop")
        try:
            other.start()
        except RuntimeError:  # no further thread is to be had: one after the other
            self.away.stop()
            self.here.stop()
            return
        self.here.stop()
        other.join()

    def _lane(self, job: TaskRequest) -> TaskQueue:
        return self.away if job.task in _AWAY else self.here


# A run that was told to stop cleans up; then it is killed, and the next run sweeps what it left.
STOP_GRACE_S: Final = 4.0
_SUCCESSES: Final = (0, 3)
_RUNS_REMEMBERED: Final = 20
# What a worker does beside the tasks of a schedule.
DOCTOR: Final = "doctor"
REBUILD: Final = "rebuild"
