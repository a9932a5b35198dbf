"""One run of a task: it times stages, emits events, and keeps the report that these add up to."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Generic, Self, TypeAlias, TypeVar

from backupd.errors import BackupdError, Terminated, TimeLimitExceeded, UnexpectedError
from backupd.model import Outcome, Progress
from backupd.report import BackupDetails, DrillDetails, ReplicationDetails, RestoreDetails, RunDetails, RunReport
from backupd.system.fs import collect_limits
from backupd.system.os_errors import foreseen_error
from backupd.system.signals import TimeLimitReached
from backupd.tasks.events import GenerationPublished, SourceUnchanged, TaskEvent
from backupd.tasks.reporter import Reporter

D = TypeVar("D", bound=RunDetails)
DEGRADED_EXIT: Final = 3

_TIME_LIMIT_HINT: Final = "see the events before it in backup.log; a hung disk or mount is likely"


class Run(Generic[D]):
    """Emits what happens to `reporter`; `report` is complete once the block of `TaskContext.run` has ended."""

    def __init__(self, report: RunReport[D], reporter: Reporter) -> None:
        self.report = report
        self._reporter = reporter
        self._began = time.monotonic()
        self._worked_s = 0.0
        self.rests = False

    @property
    def details(self) -> D:
        """What is known so far beside the head of the report."""
        return self.report.details

    @details.setter
    def details(self, details: D) -> None:
        self.report = replace(self.report, details=details)

    def emit(self, event: TaskEvent) -> None:
        """Report that something has happened."""
        if isinstance(event, GenerationPublished):
            self.report = replace(self.report, outcome="published")
        elif isinstance(event, SourceUnchanged):
            self.report = replace(self.report, outcome="unchanged")
        self._reporter(event)

    def warn(self, warning: str) -> None:
        """Report something that degrades the run."""
        self.report = replace(self.report, warnings=(*self.report.warnings, warning))

    def warn_all(self, warnings: Iterable[str]) -> None:
        """Report several such things."""
        for warning in warnings:
            self.warn(warning)

    def note(self, note: str) -> None:
        """Report something that is worth reading and is not a fault, once."""
        if note not in self.report.notes:
            self.report = replace(self.report, notes=(*self.report.notes, note))

    def add_stage(self, name: str, duration_s: float) -> None:
        """Add `duration_s` to the stage `name`."""
        total_s = round(self.report.stages.get(name, 0.0) + duration_s, 3)
        self.report = replace(self.report, stages={**self.report.stages, name: total_s})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as the stage `name`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add_stage(name, time.monotonic() - began)

    def rest(self) -> None:
        """Count no more time, and do not fail by what happens to others once there is an outcome."""
        self._worked_s += time.monotonic() - self._began
        self.rests = True

    @contextmanager
    def turn(self, working: "Callable[[Sequence[Self]], AbstractContextManager[None]]") -> Iterator[None]:
        """Work in the block, which fails this run alone, of a run that rests before and after.

        One that never rests is alone in its process: an error of the block is raised. `working` is that of the context.
        """
        if not self.rests:
            yield
            return
        self._began, self.rests = time.monotonic(), False
        try:
            with working([self]):
                yield
        finally:
            self.rest()

    @property
    def is_settled(self) -> bool:
        """Whether it rests with its outcome."""
        return self.rests and self.report.outcome != "done"

    def start(self) -> None:
        """Record that the run begins; it degrades where there is no usable catalog."""
        if problem := self._reporter.started(self.report):
            self.warn(problem)

    def fail(self, error: BackupdError) -> None:
        """Turn the run into a failed one."""
        self.report = replace(
            self.report,
            outcome="failed",
            error=error.message,
            hint=error.hint,
            error_kind=error.kind,
            exit_code=error.exit_code,
        )

    @property
    def outcome(self) -> Outcome:
        """The outcome as of now: warnings degrade what is new."""
        is_new = self.report.outcome not in ("failed", "unchanged")
        return "degraded" if is_new and self.report.warnings else self.report.outcome

    def finish(self) -> None:
        """Complete the report, with outcome and exit code, and record it."""
        report = self.report
        if report.warnings and report.outcome != "failed":
            report = replace(report, outcome=self.outcome, exit_code=DEGRADED_EXIT)
        worked_s = self._worked_s + (0.0 if self.rests else time.monotonic() - self._began)
        self.report = self._reporter.mask.of(replace(report, duration_s=round(worked_s, 3)))
        self._reporter.finished(self.report)


BackupRun: TypeAlias = Run[BackupDetails]
DrillRun: TypeAlias = Run[DrillDetails]
ReplicationRun: TypeAlias = Run[ReplicationDetails]
RestoreRun: TypeAlias = Run[RestoreDetails]


class Stopwatch:
    """Passes progress on to `to`, and gives `add_stage` the name of each stage and its seconds when it ends."""

    def __init__(self, to: Progress, add_stage: Callable[[str, float], None]) -> None:
        self._to, self._add_stage = to, add_stage
        self._name, self._began = "", 0.0

    def stage(self, name: str, total_bytes: int) -> None:
        """Begin a stage, which ends the one before."""
        self.end()
        self._name, self._began = name, time.monotonic()
        self._to.stage(name, total_bytes)

    def advance(self, done_bytes: int) -> None:
        """Pass it on."""
        self._to.advance(done_bytes)

    def end(self) -> None:
        """End the last stage."""
        if self._name:
            self._add_stage(self._name, time.monotonic() - self._began)
            self._name = ""


@contextmanager
def recorded(run: Run[D], directory: Path) -> Iterator[Run[D]]:
    """Finish the run when the block ends; see `working`."""
    try:
        with working([run], directory):
            yield run
    finally:
        run.finish()


@contextmanager
def working(runs: Sequence[Run[D]], directory: Path) -> Iterator[None]:
    """Fail `runs` by a BackupdError or OSError of the block, which all of them share; anything else is raised too.

    `directory` is that of the store, for hints about a full disk. What the file system could not do is noted.
    """
    with _failures(runs, directory), collect_limits() as limits:
        try:
            yield
        finally:
            for limit in limits:
                for run in runs:
                    run.note(limit)


@contextmanager
def _failures(runs: Sequence[Run[D]], directory: Path) -> Iterator[None]:
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, TimeLimitReached):
            _fail(runs, TimeLimitExceeded("the run exceeded schedule.run_timeout_s", _TIME_LIMIT_HINT))
        else:
            how = "terminated (SIGTERM)" if isinstance(error, SystemExit) else "interrupted (Ctrl-C)"
            _fail(runs, Terminated(how, "run it again"))
        raise
    except BaseException as error:
        foreseen = foreseen_error(error, directory, ", or move backups_dir")
        _fail(runs, foreseen or UnexpectedError.of(error, "run it again"))
        if foreseen is None:
            raise


def _fail(runs: Sequence[Run[D]], error: BackupdError) -> None:
    for run in runs:
        if not run.is_settled:
            run.fail(error)
