"""The record of one run: times of its stages, what to warn of, and at the end exactly one report."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from backupd.catalog import CatalogUnavailable, open_catalog
from backupd.errors import BackupdError, InputOutputError, NoSpace, Terminated, UnexpectedError
from backupd.formatting import counted, human_bytes, human_duration
from backupd.log import Event
from backupd.model import DrillReport, Progress, RunReport
from backupd.system.files import is_full, noting_limits
from backupd.system.os_errors import remedy, said, why_full
from backupd.system.starting import is_refusal, refusal
from backupd.tasks.context import TaskContext


class Stopwatch:
    """Passes progress on to `to`, and tells `add_stage` the name of each stage and its seconds when it ends."""

    def __init__(self, to: Progress, add_stage: Callable[[str, float], None]) -> None:
        self._to, self._add_stage = to, add_stage
        self._name, self._began = "", 0.0

    def stage(self, name: str, total_bytes: int) -> None:
        """Hear that a stage begins, and with that that the one before has ended."""
        self.end()
        self._name, self._began = name, time.monotonic()
        self._to.stage(name, total_bytes)

    def advance(self, done_bytes: int) -> None:
        """Pass it on."""
        self._to.advance(done_bytes)

    def end(self) -> None:
        """Hear that the last stage has ended."""
        if self._name:
            self._add_stage(self._name, time.monotonic() - self._began)
            self._name = ""


DEGRADED_EXIT = 3


class Run:
    """Collects what a run does; `report` is whole once the block of `recorded` has ended."""

    def __init__(self, task: str, source: str, context: TaskContext) -> None:
        self._context = context
        self._began = time.monotonic()
        self._id: int | None = None
        self._configuration = context.configuration()
        self.report = RunReport(task=task, source=source, started_at=context.clock(), outcome="done")

    def update(self, **changes: Any) -> None:  # noqa: ANN401 - the fields of RunReport by name
        """Set fields of the report."""
        self.report = replace(self.report, **changes)

    def warn(self, warning: str) -> None:
        """Add something that makes the run degraded."""
        self.update(warnings=(*self.report.warnings, warning))

    def note(self, note: str) -> None:
        """Add something worth telling that is no fault; once, however often it is said."""
        if note not in self.report.notes:
            self.update(notes=(*self.report.notes, note))

    def sent(self, generation: str, resumed_bytes: int, verified_by: str) -> None:
        """Add a generation that reached a replica, the bytes that this spared, and how it was proven there."""
        report = self.report
        self.update(
            sent=(*report.sent, generation),
            resumed_bytes=report.resumed_bytes + resumed_bytes,
            verified_by=tuple(sorted({*report.verified_by, verified_by})),
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block as the stage `name`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add_stage(name, time.monotonic() - began)

    def add_stage(self, name: str, duration_s: float) -> None:
        """Add `duration_s` to the stage `name`."""
        stages = dict(self.report.stages)
        stages[name] = round(stages.get(name, 0.0) + duration_s, 3)
        self.update(stages=stages)

    def started(self) -> None:
        """Say that the work begins; runs that a kill cut short are closed in the catalog first."""
        report = self.report
        for warning in self._context.warnings:
            self.warn(warning)
        self._context.log.info(
            Event.RUN_STARTED,
            f"{report.task} of {report.source} begins",
            task=report.task,
            source=report.source,
        )
        try:
            with open_catalog(self._context.catalog_path) as catalog:
                for dead in catalog.interrupted_runs(report.task):
                    if dead.source == report.source:
                        catalog.mark_interrupted(dead.id, self._context.clock())
                        self._context.log.warning(
                            Event.RUN_INTERRUPTED,
                            f"the {dead.task} of {dead.source} at {dead.started_at:%F %T} UTC was cut short",
                            task=dead.task,
                            source=dead.source,
                        )
                self._id = catalog.start_run(report.task, report.source, report.started_at, self._configuration)
        except CatalogUnavailable as error:
            store, why = self._context.store, f"the catalog cannot be used: {error.message} ({error.hint})"
            unwritten = f"{store.directory} cannot be written: neither log nor catalog knows of this"
            self.warn(why if store.writable() else unwritten)

    def finish(self) -> None:
        """Settle outcome and exit code, and hand the report to log and catalog."""
        if self.report.warnings and self.report.outcome != "failed":
            outcome = "unchanged" if self.report.outcome == "unchanged" else "degraded"
            self.update(outcome=outcome, exit_code=DEGRADED_EXIT)
        self.update(duration_s=round(time.monotonic() - self._began, 3))
        self._to_log()
        self._to_catalog()

    def fail(self, error: BackupdError) -> None:
        """Turn the run into a failed one."""
        self.update(
            outcome="failed", error=error.message, hint=error.hint, error_kind=error.kind, exit_code=error.exit_code
        )

    def _to_log(self) -> None:
        report = self.report
        tell = self._context.log.warning if report.warnings else self._context.log.info
        if report.outcome == "failed":
            tell = self._context.log.error
        fields = asdict(report) | {"event.outcome": "failure" if report.outcome == "failed" else "success"}
        fields["error.message"] = fields.pop("error")
        fields["started_at"] = report.started_at.isoformat()
        if report.drill and report.drill.taken_at:
            fields["drill"]["taken_at"] = report.drill.taken_at.isoformat()
        fields["event.duration"] = int(report.duration_s * 1e9)
        tell(Event.RUN_FINISHED, describe(report), **fields)

    def _to_catalog(self) -> None:
        now = self._context.clock()
        run_id = self._id
        if run_id is not None:
            self._context.tell_catalog(
                lambda catalog: catalog.finish_run(run_id, self.report, now, self._configuration)
            )
        elif os.path.lexists(self._context.catalog_path):  # it failed before it had the store to itself
            self._context.tell_catalog(lambda catalog: catalog.record_run(self.report, now, self._configuration))


@contextmanager
def recorded_run(task: str, source: str, context: TaskContext) -> Iterator[Run]:
    """Record the block as one run: a foreseen error ends it as failed, anything else is recorded and goes on up."""
    run = Run(task, source, context)
    with context.watch(task, source) as tell_end:
        try:
            with _failures(run, context.store.directory), _limits_noted(run):
                yield run
        finally:
            run.finish()
            tell_end(run.report)


@contextmanager
def _limits_noted(run: Run) -> Iterator[None]:
    """Note what file systems could not do, and was done without."""
    with noting_limits() as limits:
        try:
            yield
        finally:
            for limit in limits:
                run.note(limit)


@contextmanager
def _failures(run: Run, directory: Path) -> Iterator[None]:
    try:
        yield
    except BackupdError as error:
        run.fail(error)
    except OSError as error:
        if is_full(error):
            what, hint = why_full(error, directory)
            run.fail(NoSpace(what, f"{hint}, or move backups_dir"))
        else:
            run.fail(InputOutputError(f"I/O error: {said(error)}", remedy(error, directory)))
    except (SystemExit, KeyboardInterrupt) as error:
        how = "terminated (SIGTERM)" if isinstance(error, SystemExit) else "interrupted (Ctrl-C)"
        run.fail(Terminated(how, "run it again"))
        raise
    except BaseException as error:
        if is_refusal(error):
            run.fail(refusal(error))
            return
        run.fail(UnexpectedError.of(error, "run it again"))
        raise


def describe(report: RunReport) -> str:
    """Tell a run in the one line that `backup.log` ends it with."""
    head = f"{report.task} {'to' if report.task == 'replicate' else 'of'} {report.source}"
    if report.outcome == "failed":
        return f"{head}: failed: {report.error}"
    parts = [f"{head}: {report.outcome} {report.generation}" if report.generation else f"{head}: {report.outcome}"]
    if report.snapshot_bytes is not None and report.archive_bytes is not None:
        parts.append(f"{human_bytes(report.snapshot_bytes)} as {human_bytes(report.archive_bytes)}")
    if report.verification:
        parts.append(f"verified {report.verification}")
    if report.task == "replicate":
        sizes = f"{human_bytes(report.sent_bytes)} sent, {human_bytes(report.resumed_bytes)} spared"
        proven = f", proven by {' and '.join(report.verified_by)}" if report.verified_by else ""
        parts.append(f"{counted(len(report.sent), 'generation')}, {sizes}{proven}")
    if report.drill is not None:
        parts += _drilled(report.drill)
    parts.append(human_duration(report.duration_s))
    if report.kept or report.removed:
        parts.append(f"{report.kept} kept, {len(report.removed)} removed")
    return ", ".join(parts) + "".join(f"; {warning}" for warning in report.warnings)


def _drilled(drill: DrillReport) -> Iterator[str]:
    yield f"from {drill.store}"
    if drill.age_s is not None:
        yield f"{human_duration(drill.age_s)} old"
    if drill.recovery_s is not None:
        yield f"recovered in {human_duration(drill.recovery_s)}"
