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
from typing import Final

from backupd.bootstrap.launch import monitors_of_runs, secrets_of_task
from backupd.config import Config, mask_of, withhold_secrets
from backupd.errors import ProcessRefused, TemporaryError
from backupd.formatting import human_duration
from backupd.log import Event, EventLog
from backupd.pings import start_ping_helper
from backupd.system.os_errors import os_error_hint, os_error_text
from backupd.system.process import close_input, send, start_module

# Beside the tasks of a schedule; neither has a source.
DOCTOR: Final = "doctor"
REBUILD: Final = "rebuild"
# A run that is stopped cleans up for so long; then it is killed, and the next run sweeps what it left.
STOP_GRACE_S: Final = 4.0
_REMOTE: Final = ("replicate", "drill")
_SUCCESSES: Final = (0, 3)
_RESULTS_KEPT: Final = 20


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A task (or `doctor`, `rebuild`) and its source or replica, if any."""

    task: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.task} of {self.source}" if self.source else self.task

    def fields(self) -> dict[str, str | None]:
        """Return the fields of its log lines."""
        return {"task": self.task, "source": self.source or None}


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a run ended; kept in memory, since the catalog may be unusable at that moment."""

    began_at: datetime
    ended_at: datetime
    exit_code: int

    @property
    def succeeded(self) -> bool:
        """Whether it succeeded, with or without warnings."""
        return self.exit_code in _SUCCESSES


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
        self._on_end: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._work, name="tasks", daemon=True)

    def start(self, on_end: Callable[[], None] = lambda: None) -> None:
        """Start the thread, which calls `on_end` after each run that has a source; it must be quick and not raise."""
        self._on_end = on_end
        self._thread.start()

    def submit(self, request: TaskRequest) -> bool:
        """Queue `request`, unless it waits or runs already; return whether it was queued."""
        with self._changed:
            if self._stopping or request == self._current or request in self._waiting:
                return False
            self._waiting.append(request)
            self._changed.notify_all()
            return True

    def results(self, request: TaskRequest) -> tuple[TaskResult, ...]:
        """Return the last success of `request` and the failures since then, oldest first."""
        with self._changed:
            return self._results.get(request, ())

    def alive(self) -> bool:
        """Return whether the thread is alive."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop the current run and start no other; returns after little more than `STOP_GRACE_S`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            request, process = self._current, self._process
        if request is not None and process is not None:
            self._end(request, process, "the daemon stops")
        self._thread.join(1)

    def _work(self) -> None:
        while (request := self._next()) is not None:
            began_at = self._clock()
            exit_code = self._run(request)
            with self._changed:
                self._current = self._process = None
                result = TaskResult(began_at, self._clock(), exit_code)
                earlier = () if result.succeeded else self._results.get(request, ())
                self._results[request] = (*earlier, result)[-_RESULTS_KEPT:]
            if request.source:  # after a rebuild that fails, the next attempt has to wait for the next minute
                self._on_end()

    def _next(self) -> TaskRequest | None:
        """Wait for a request; None once the queue stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            self._current = None if self._stopping else self._waiting.popleft()
            return self._current

    def _run(self, request: TaskRequest) -> int:
        """Run `request` in a process and return its exit code; a failure to start is logged, and has a code as well."""
        with ExitStack() as stack:
            return self._watch(request, stack)

    def _watch(self, request: TaskRequest, stack: ExitStack) -> int:
        try:
            process = self._start(request, stack)
        except ProcessRefused as error:
            return self._failed_to_start(request, error.message, error.hint)
        except OSError as error:
            return self._failed_to_start(request, os_error_text(error), os_error_hint(error))
        with self._changed:
            self._process, stopping = process, self._stopping
        if stopping:
            self._end(request, process, "the daemon stops")
        try:
            process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            self._end(request, process, f"it did not end within {human_duration(self._timeout_s)}", signal.SIGALRM)
        finally:
            close_input(process)
        if process.returncode is None:
            return TemporaryError.exit_code  # it hangs in the kernel, where not even SIGKILL ends it
        if process.returncode < 0 and not self._stopping:
            what = f"the {request} was killed by {signal.Signals(-process.returncode).name}"
            hint = "see dmesg: too little memory is likely"
            self._log.error(Event.RUN_FAILED, what, hint=hint, **request.fields())
        return process.returncode

    def _start(self, request: TaskRequest, stack: ExitStack) -> subprocess.Popen[bytes]:
        """Start the process of a run, with the secrets that it needs, and the process that sends its pings.

        The ping process ends with `stack`.
        """
        config = withhold_secrets(self._config, secrets_of_task(self._config, request.task, request.source))
        descriptors: tuple[int, ...] = ()
        if request.source and (monitors := monitors_of_runs(self._config)):
            helper, pinging = start_ping_helper(monitors, mask_of(self._config), os.environ)
            stack.callback(_end_helper, pinging)
            config, descriptors = config.with_ping_helper(helper), (helper.to, helper.back)
        arguments = ("backupd.daemon.task_process", request.task, request.source)
        process = start_module(*arguments, stdout=None, descriptors=descriptors)
        send(process, pickle.dumps(config))
        return process

    def _failed_to_start(self, request: TaskRequest, why: str, hint: str) -> int:
        self._log.error(Event.RUN_FAILED, f"the {request} could not start: {why}", hint=hint, **request.fields())
        return TemporaryError.exit_code

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

    def submit(self, request: TaskRequest) -> bool:
        """Queue `request`, unless it waits or runs already; return whether it was queued."""
        return self._queue(request).submit(request)

    def results(self, request: TaskRequest) -> tuple[TaskResult, ...]:
        """Return the last success of `request` and the failures since then, oldest first."""
        return self._queue(request).results(request)

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
