"""How values become rows."""

from datetime import datetime

from sqlalchemy.orm import Session

from backupd.catalog.models import Copy, CopyState, Generation, Run
from backupd.catalog.records import report_to_json
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


def run_row(report: RunReport) -> Run:
    """Return the row of a run that began as `report` says, not finished yet."""
    return Run(task=report.task, source=report.source, started_at=report.started_at)


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
