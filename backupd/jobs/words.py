"""Sizes, times and runs in words for people."""

from collections.abc import Iterator

from backupd.model import DrillReport, RunReport
from backupd.spans import human_span

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


def human_age(age_s: float) -> str:
    """Return an age in its largest fitting unit: `40 s`, `3 h`, `12 d`; a time in the future is `in …`."""
    prefix, age_s = ("in ", -age_s) if age_s < 0 else ("", age_s)
    for unit, length, next_length in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 86400)):
        if age_s < next_length:
            return f"{prefix}{age_s // length:.0f} {unit}"
    return f"{prefix}{age_s // 86400:.0f} d"


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
    parts.append(f"{report.duration_s:.1f} s")
    if report.kept or report.removed:
        parts.append(f"{report.kept} kept, {len(report.removed)} removed")
    return ", ".join(parts) + "".join(f"; {warning}" for warning in report.warnings)


def _drilled(drill: DrillReport) -> Iterator[str]:
    yield f"from {drill.store}"
    if drill.age_s is not None:
        yield f"{human_span(drill.age_s)} old"
    if drill.recovery_s is not None:
        yield f"recovered in {drill.recovery_s:.1f} s"
