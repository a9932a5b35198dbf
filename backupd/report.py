"""The report of a run: a head that all tasks share, the details of its task, and both as one flat JSON object."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from backupd.errors import BackupdError, ErrorKind, Postponed
from backupd.formatting import counted, human_bytes, human_duration
from backupd.model import POINT, Outcome, Verification, utc_from_text


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetails:
    """What the run of one task has to report beside the head; what the run did not reach is None.

    A scrub reports no more than the generation whose archive it read back.
    """

    generation: str | None = None  # the generation that the run is about


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneDetails(RunDetails):
    """What the retention policy kept and removed."""

    kept: int = 0  # generations that stay
    removed: tuple[str, ...] = ()  # ids


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupDetails(PruneDetails):
    """The generation that was published, or the one that the unchanged source equals."""

    archive_path: str | None = None
    snapshot_bytes: int | None = None
    archive_bytes: int | None = None
    snapshot_sha256: str | None = None
    archive_sha256: str | None = None
    verification: Verification | None = None
    files: int | None = None  # of a set of files, as the next four; None: of a database
    new_files: int | None = None  # since the run before
    changed_files: int | None = None
    gone_files: int | None = None
    skipped: int | None = None  # sockets, pipes, devices, and what could not be read


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationDetails(PruneDetails):
    """What reached the replica, and what is kept and removed there."""

    sent: tuple[str, ...] = ()  # ids
    sent_bytes: int = 0  # that travelled, also in attempts that failed
    resumed_bytes: int = 0  # that did not travel again, because an earlier attempt had sent them
    verified_by: tuple[str, ...] = ()  # how the copies were verified at the replica
    contents: int = 0  # of files, that were sent
    contents_bytes: int = 0  # that travelled for them
    points: tuple[str, ...] = ()  # ids of the restore points that were sent


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreDetails(RunDetails):
    """The generation that was restored."""

    snapshot_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class DrillReport:
    """What a restore drill measured; what was not measured is None."""

    store: str  # that the copy came from
    max_age_s: float  # how old its data was allowed to be
    taken_at: datetime | None = None
    age_s: float | None = None  # of the data: the measured recovery point
    recovery_s: float | None = None  # from opening the store to the last check: the measured recovery time
    proven: tuple[str, ...] = ()  # checks that passed, in their order
    output: str = ""  # the end of what the command printed
    point: str | None = None  # the restore point that the copy is a part of, and was restored with
    files: int | None = None  # of a set of files, whose contents were read
    files_missing: int | None = None  # those of them that cannot be restored, and those that only the database names


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillDetails(RunDetails):
    """The generation that was restored, and what the drill measured."""

    snapshot_bytes: int | None = None
    archive_bytes: int | None = None
    snapshot_sha256: str | None = None
    archive_sha256: str | None = None
    verification: Verification | None = None
    drill: DrillReport


D_co = TypeVar("D_co", bound=RunDetails, covariant=True)


@dataclass(frozen=True, slots=True)
class RunReport(Generic[D_co]):
    """The outcome of one run; log, catalog and `--json` show the same fields."""

    task: str
    subject: str  # the source; of a replication the replica. In JSON it is named `source`
    started_at: datetime
    details: D_co
    outcome: Outcome = "done"  # a successful backup is `published` or `unchanged`
    duration_s: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)  # seconds by stage
    warnings: tuple[str, ...] = ()  # each degrades the run
    notes: tuple[str, ...] = ()
    error: str | None = None
    hint: str | None = None
    error_kind: ErrorKind | None = None
    exit_code: int = 0

    @property
    def generation(self) -> str | None:
        """The generation that the run is about."""
        return self.details.generation

    @property
    def postponed(self) -> bool:
        """Whether it has begun nothing, since a hook asked to try again later."""
        return self.error_kind == Postponed.kind


AnyReport = RunReport[RunDetails]

_DETAILS: Final[Mapping[str, type[RunDetails]]] = {
    "backup": BackupDetails,
    "prune": PruneDetails,
    "replicate": ReplicationDetails,
    "restore": RestoreDetails,
    "drill": DrillDetails,
}


def failed_backup(source: str, started_at: datetime, error: BackupdError) -> AnyReport:
    """Return the report of a backup that `error` ended before it had one."""
    return RunReport(
        "backup",
        source,
        started_at,
        BackupDetails(),
        outcome="failed",
        error=error.message,
        hint=error.hint,
        error_kind=error.kind,
        exit_code=error.exit_code,
    )


def drill_of(report: AnyReport | None) -> DrillReport | None:
    """Return what a drill measured; None for any other task."""
    return report.details.drill if report is not None and isinstance(report.details, DrillDetails) else None


def describe(report: AnyReport) -> str:
    """Return the one line that `backup.log` ends a run with."""
    details = report.details
    head = f"{report.task} {'to' if report.task == 'replicate' else 'of'} {subject_of(report)}"
    if report.outcome == "failed":
        return f"{head}: failed: {report.error}"
    generation = f" {report.generation}" if report.generation not in (None, subject_of(report)) else ""
    parts = [f"{head}: {report.outcome}{generation}"]
    if isinstance(details, BackupDetails | DrillDetails):
        if details.snapshot_bytes is not None and details.archive_bytes is not None:
            parts.append(f"{human_bytes(details.snapshot_bytes)} as {human_bytes(details.archive_bytes)}")
        if isinstance(details, BackupDetails) and details.files is not None:
            parts.append(files_text(details))
        if details.verification:
            parts.append(f"verified {details.verification}")
    if isinstance(details, ReplicationDetails):
        sizes = f"{human_bytes(details.sent_bytes)} sent, {human_bytes(details.resumed_bytes)} resumed"
        verified = f", verified by {' and '.join(details.verified_by)}" if details.verified_by else ""
        parts.append(f"{sent_text(details)}, {sizes}{verified}")
    if isinstance(details, DrillDetails):
        parts += _drilled(details.drill)
    parts.append(human_duration(report.duration_s))
    if isinstance(details, PruneDetails) and (details.kept or details.removed):
        parts.append(f"{details.kept} kept, {len(details.removed)} removed")
    return ", ".join(parts) + "".join(f"; {warning}" for warning in report.warnings)


def subject_of(report: AnyReport) -> str:
    """Return what a run is of, in words: a restore of several sources is of its restore point, once that is known."""
    return report.generation if report.subject == POINT and report.generation else report.subject


def sent_text(details: ReplicationDetails) -> str:
    """Return what was sent to a replica."""
    said = [counted(len(details.sent), "generation")]
    if details.points:
        said.append(counted(len(details.points), "restore point"))
    if details.contents:
        said.append(f"{counted(details.contents, 'content')} of files ({human_bytes(details.contents_bytes)})")
    return ", ".join(said)


def files_text(details: BackupDetails) -> str:
    """Return how many files a set has, and what became of them since the run before."""
    changes = {"new": details.new_files, "changed": details.changed_files, "gone": details.gone_files}
    changes["skipped"] = details.skipped
    said = ", ".join(f"{count} {what}" for what, count in changes.items() if count)
    return counted(details.files or 0, "file") + (f" ({said})" if said else "")


def _drilled(drill: DrillReport) -> Iterator[str]:
    yield f"from {drill.store}" + (f" with {drill.point}" if drill.point else "")
    if drill.files is not None:
        yield counted(drill.files, "file") + (f", {drill.files_missing} missing" if drill.files_missing else "")
    if drill.age_s is not None:
        yield f"{human_duration(drill.age_s)} old"
    if drill.recovery_s is not None:
        yield f"recovered in {human_duration(drill.recovery_s)}"


def report_facts(report: AnyReport) -> dict[str, object]:
    """Return head and details as one flat mapping that JSON can hold, times as ISO 8601."""
    names = (one.name for one in fields(RunReport) if one.name not in {"subject", "details"})
    facts = {"source": report.subject} | {name: getattr(report, name) for name in names} | asdict(report.details)
    facts |= {"started_at": report.started_at.isoformat(), "stages": dict(report.stages)}
    if drill := drill_of(report):
        facts["drill"] = asdict(drill) | {"taken_at": drill.taken_at.isoformat() if drill.taken_at else None}
    return facts


def report_from_json(text: str) -> AnyReport:
    """Read a report, also one of another version: unknown fields are skipped, missing ones have their defaults.

    Raises ValueError when `text` is not the report of a run.
    """
    try:
        found = json.loads(text)
        if drill := found.get("drill"):
            taken_at = utc_from_text(drill["taken_at"]) if drill.get("taken_at") else None
            found["drill"] = DrillReport(**_values(DrillReport, drill | {"taken_at": taken_at}))
        kind = RunDetails if found["task"] == "drill" and not drill else _DETAILS.get(found["task"], RunDetails)
        found |= {"subject": found["source"], "started_at": utc_from_text(found["started_at"])}
        return RunReport(**_values(RunReport, found | {"details": kind(**_values(kind, found))}))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"the report of a run cannot be read: {error}") from error


def _values(kind: type[RunDetails | DrillReport | AnyReport], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON holds of the fields of `kind`."""
    values = {one.name: found[one.name] for one in fields(kind) if one.name in found}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
