"""Sizes, times and runs in words for people."""

from collections.abc import Iterator

from backupd.model import DrillReport, RunReport
from backupd.spans import human_duration, human_span

_KIB = 1024


def counted(number: int, noun: str) -> str:
    """Return `1 row`, `2 rows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def human_bytes(size_bytes: float) -> str:
    """Return a size with binary units: `512 B`, `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < _KIB:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= _KIB
    return f"{size_bytes:.1f} TiB"


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
        sizes = f"{human_bytes(report.sent_bytes)} sent, {human_bytes(report.spared_bytes)} spared"
        proven = f", proven by {' and '.join(report.proven_by)}" if report.proven_by else ""
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
        yield f"{human_span(drill.age_s)} old"
    if drill.recovery_s is not None:
        yield f"recovered in {human_duration(drill.recovery_s)}"
