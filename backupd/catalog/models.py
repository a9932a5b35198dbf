"""The catalog's tables as ORM rows, and rows as values; `migrations/*.sql` create the same schema: a test checks it."""

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal, TypeVar

from sqlalchemy import REAL, CheckConstraint, ForeignKeyConstraint, Index, Integer, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from backupd.catalog import RunRecord
from backupd.model import AnyManifest, Outcome, Severity, Verification, utc_from_text
from backupd.report import report_from_json

CopyState = Literal["present", "damaged", "missing"]

T = TypeVar("T")
_STRICT: Final = {"sqlite_strict": True}  # https://sqlite.org/stricttables.html


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, stored as ISO 8601 text in UTC of fixed width, so that text order is time order."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Write `value`. Raises ValueError when it is naive."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ANN401, ARG002 - SQLAlchemy's signature
        """Read `value`. Raises ValueError when it is not an ISO 8601 time with a zone."""
        return None if value is None else utc_from_text(value)


class Utf8(TypeDecorator[str]):
    r"""Text that may quote a file name in another encoding: bytes that are not UTF-8 are stored as `\udcff`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Write `value`."""
        return None if value is None else value.encode("utf-8", "backslashreplace").decode("utf-8")


class Base(DeclarativeBase):
    """Maps Python types to column types."""

    __table_args__: Any = _STRICT
    type_annotation_map: ClassVar[dict[Any, Any]] = {str: Utf8, float: REAL, datetime: UtcDateTime}


class RunRow(Base):
    """One run of a task; `finished_at` is null while it runs, and remains null when it is killed.

    `generation` is not a foreign key: runs outlive the generations that they published. `configuration` is the digest
    of the configuration that the run began with, see `config.digest`.
    """

    __tablename__ = "run"
    __table_args__ = (
        Index("run_by_task", "task", "source", "started_at"),
        Index("run_by_source", "source", "started_at"),
        Index("run_by_start", "started_at"),
        Index("run_by_generation", "generation"),
        _STRICT,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task: Mapped[str]
    source: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    outcome: Mapped[Outcome | None] = mapped_column(Utf8)
    generation: Mapped[str | None]
    error: Mapped[str | None]
    exit_code: Mapped[int | None]
    duration_s: Mapped[float | None]
    report: Mapped[str | None]
    configuration: Mapped[str | None]


class GenerationRow(Base):
    """One generation, by its manifest."""

    __tablename__ = "generation"

    id: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str]
    taken_at: Mapped[datetime]
    snapshot_bytes: Mapped[int]
    archive_bytes: Mapped[int]
    snapshot_sha256: Mapped[str]
    archive_sha256: Mapped[str]
    verification: Mapped[Verification] = mapped_column(Utf8)


class CopyRow(Base):
    """A generation in a store, with its state and the time `since` when it has that state.

    `generation` is not a foreign key: a check may find damage before the manifest is in the catalog.
    """

    __tablename__ = "copy"
    __table_args__ = (
        CheckConstraint("state IN ('present', 'damaged', 'missing')", name="copy_state"),
        Index("copy_by_state", "store", "state"),
        _STRICT,
    )

    generation: Mapped[str] = mapped_column(primary_key=True)
    store: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[CopyState] = mapped_column(Utf8)
    since: Mapped[datetime]


class CheckRow(Base):
    """The result of one check of one copy; deleted with the copy."""

    __tablename__ = "check_result"
    __table_args__ = (
        ForeignKeyConstraint(["generation", "store"], ["copy.generation", "copy.store"], ondelete="CASCADE"),
        CheckConstraint("sound IN (0, 1)", name="check_result_sound"),
        Index("check_result_by_generation", "generation", "store", "checked_at"),
        _STRICT,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    generation: Mapped[str]
    store: Mapped[str]
    checked_at: Mapped[datetime]
    sound: Mapped[bool] = mapped_column(Integer)
    detail: Mapped[str]
    duration_s: Mapped[float]


class NoticeRow(Base):
    """See `catalog.NoticeRecord`."""

    __tablename__ = "notice"

    scope: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    since: Mapped[datetime]
    notified_at: Mapped[datetime | None]


class PingRow(Base):
    """See `catalog.PingRecord`."""

    __tablename__ = "ping"

    task: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    accepted: Mapped[int]
    failed: Mapped[int]
    accepted_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    reason: Mapped[str]


class OutboxRow(Base):
    """See `catalog.OutboxMessage`; `channels` are separated by spaces."""

    __tablename__ = "outbox"

    scope: Mapped[str] = mapped_column(primary_key=True)
    reference: Mapped[str] = mapped_column(primary_key=True)
    made_at: Mapped[datetime]
    severity: Mapped[Severity] = mapped_column(Utf8)
    title: Mapped[str]
    body: Mapped[str]
    channels: Mapped[str]
    attempts: Mapped[int]
    next_at: Mapped[datetime]


def record_of(kind: type[T], row: Base, **changed: Any) -> T:  # noqa: ANN401 - of any field
    """Return `row` as a value of the dataclass `kind`: its fields are named as the columns, but for those `changed`."""
    names = (field.name for field in fields(kind))  # type: ignore[arg-type] # any dataclass
    return kind(**{name: changed[name] if name in changed else getattr(row, name) for name in names})


def run_record(row: RunRow) -> RunRecord:
    """Return `row` as a value. Raises ValueError when its report cannot be read."""
    return record_of(RunRecord, row, report=None if row.report is None else report_from_json(row.report))


def generation_row(manifest: AnyManifest) -> GenerationRow:
    """Return the row of a manifest."""
    return GenerationRow(
        id=manifest.id,
        source=manifest.source,
        taken_at=manifest.taken_at,
        snapshot_bytes=manifest.content_bytes,
        archive_bytes=manifest.archive.size_bytes,
        snapshot_sha256=manifest.content_sha256,
        archive_sha256=manifest.archive.sha256,
        verification=manifest.verdict.level,
    )
