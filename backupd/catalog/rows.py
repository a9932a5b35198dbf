"""How values become rows, and rows values."""

from datetime import datetime

from sqlalchemy.orm import Session

from backupd.catalog.models import CheckResult, Copy, CopyState, Generation, Run
from backupd.catalog.records import CheckRecord, RunRecord, report_from_json, report_to_json
from backupd.model import Manifest, RunReport


def generation_row(manifest: Manifest) -> Generation:
    """Return what the catalog keeps of `manifest`."""
    return Generation(
        id=manifest.id,
        source=manifest.source,
        taken_at=manifest.taken_at,
        snapshot_bytes=manifest.snapshot.size_bytes,
        archive_bytes=manifest.archive.size_bytes,
        snapshot_sha256=manifest.snapshot.sha256,
        archive_sha256=manifest.archive.sha256,
        verification=manifest.verdict.level,
    )


def run_row(report: RunReport, configuration: str) -> Run:
    """Return the row of a run that began as `report` says, not finished yet."""
    return Run(task=report.task, source=report.source, started_at=report.started_at, configuration=configuration)


def finish(run: Run, report: RunReport, finished_at: datetime) -> None:
    """Write into `run` how it ended."""
    run.finished_at = finished_at
    run.outcome = report.outcome
    run.generation = report.generation
    run.error = report.error
    run.exit_code = report.exit_code
    run.duration_s = report.duration_s
    run.report = report_to_json(report)


def set_state(session: Session, generation: str, store: str, state: CopyState, since: datetime) -> None:
    """Note the state of a copy; `since` counts only where that is a change."""
    copy = session.get(Copy, (generation, store))
    if copy is None:
        session.add(Copy(generation=generation, store=store, state=state, since=since))
    elif copy.state != state:
        copy.state, copy.since = state, since


def run_record(row: Run) -> RunRecord:
    """Return `row` as a value. Raises ValueError when its report cannot be read."""
    return RunRecord(
        id=row.id,
        task=row.task,
        source=row.source,
        started_at=row.started_at,
        finished_at=row.finished_at,
        outcome=row.outcome,
        generation=row.generation,
        error=row.error,
        exit_code=row.exit_code,
        duration_s=row.duration_s,
        report=None if row.report is None else report_from_json(row.report),
    )


def check_record(row: CheckResult) -> CheckRecord:
    """Return `row` as a value."""
    return CheckRecord(row.generation, row.store, row.checked_at, bool(row.sound), row.detail, row.duration_s)
