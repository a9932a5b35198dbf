"""Frozen values that every room shares.

Annotations carry the bounds that a manifest from another host must keep; `archive.manifest` enforces them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Protocol

from annotated_types import Ge, Le, Len, MaxLen

ARCHIVE_SUFFIX = ".sqlite3.gz"
MANIFEST_SUFFIX = ".manifest.json"
LOCAL_STORE = "local"
MANIFEST_MAX_BYTES = 8 << 20
# What is dated further ahead than this was dated by a clock that ran ahead.
CLOCK_TOLERANCE = timedelta(minutes=10)

STORE_IDENTITY = "[0-9a-f]{16}"
SOURCE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_GENERATION_ID = re.compile(rf"({SOURCE_NAME})-\d{{8}}-\d{{4}}(-\d{{1,3}})?", re.ASCII)
_SOURCE_NAME = re.compile(SOURCE_NAME, re.ASCII)

Name = Annotated[str, MaxLen(120)]
Text = Annotated[str, MaxLen(4096)]
Count = Annotated[int, Ge(0), Le(2**63 - 1)]
Seconds = Annotated[float, Ge(0)]
Sha256 = Annotated[str, Len(64, 64)]

Verification = Literal["full", "structural", "opaque", "corrupt"]
Outcome = Literal["published", "unchanged", "done", "failed", "degraded"]
Task = Literal["backup", "replicate", "drill", "prune", "scrub"]
# What a message is about, in the words of Apprise.
Severity = Literal["failure", "warning", "success", "info"]


def is_generation_id(text: str) -> bool:
    """Tell whether `text` can be a generation's id: `SOURCE-YYYYMMDD-HHmm`, with `-N` after a collision."""
    return _GENERATION_ID.fullmatch(text) is not None


def source_of(generation_id: str) -> str:
    """Return the source that a generation's id begins with. Raises ValueError when `generation_id` is none."""
    found = _GENERATION_ID.fullmatch(generation_id)
    if found is None:
        raise ValueError(f"{generation_id[:120]!r} is no generation's id")
    return found[1]


def is_source_name(text: str) -> bool:
    """Tell whether `text` can name a source: it becomes the first part of file names."""
    return _SOURCE_NAME.fullmatch(text) is not None


def generation_id(source: str, taken_at: datetime, attempt: int = 1) -> str:
    """Name the generation of `source` taken at `taken_at` (aware); `attempt` ≥ 2 tells two in one minute apart."""
    suffix = "" if attempt == 1 else f"-{attempt}"
    t = taken_at.astimezone(UTC)  # told without strftime, which takes several times as long: lists are long
    return f"{source}-{t.year:04}{t.month:02}{t.day:02}-{t.hour:02}{t.minute:02}{suffix}"


def utc_from_text(text: str) -> datetime:
    """Read an aware UTC time. Raises ValueError when `text` is not an ISO 8601 time with a zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class FileState:
    """What `os.stat` tells of one file; two equal states more than 2 s apart mean that nobody wrote to it."""

    device: int
    inode: Count
    size_bytes: Count
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Signature:
    """The state of a database and its WAL (`None`: no WAL, or an empty one) just before a copy was begun."""

    database: FileState
    wal: FileState | None
    captured_at_ns: int


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """Where a snapshot came from and whose file it was, so that a restore can give it back as it was.

    `directory_…` are owner and mode of the directory of the database, in which its app makes the side files. An id is
    None where the user namespace of that backup did not map it.
    """

    path: Text
    uid: Count | None
    gid: Count | None
    mode: Annotated[int, Ge(0), Le(0o7777)]
    signature: Signature
    directory_uid: Count | None
    directory_gid: Count | None
    directory_mode: Annotated[int, Ge(0), Le(0o7777)]


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """An uncompressed copy: identity, shape, and the two SQLite libraries that wrote the source and the copy.

    Of an encrypted database (`method` is `file`: copied byte for byte) the page size is one that fits.
    """

    sha256: Sha256
    size_bytes: Count
    page_size: Annotated[int, Ge(512), Le(65536)]
    page_count: Count
    journal_mode: Literal["wal", "rollback"]
    user_version: int
    application_id: int
    sqlite_writer: Name
    sqlite_copier: Name
    method: Literal["backup", "vacuum", "file"]


@dataclass(frozen=True, slots=True)
class ArchiveFacts:
    """The gzip file of a snapshot: identity, and the size of the pieces that its members hold."""

    sha256: Sha256
    size_bytes: Count
    member_bytes: Annotated[int, Ge(1), Le(16 << 20)]
    members: Count


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a snapshot: rows by table (`None` where they could not be counted) and the schema's digest.

    `tables` has tables of every kind: ordinary, virtual and shadow. `columns` has a digest of the names of the columns
    by table, and `virtual` the module, in small letters, by virtual table.
    """

    tables: Annotated[dict[Text, Count | None], MaxLen(100_000)]
    schema_sha256: Sha256
    columns: Annotated[dict[Text, Text], MaxLen(100_000)] = field(default_factory=dict)
    virtual: Annotated[dict[Text, Text], MaxLen(100_000)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checks of a snapshot said.

    `checks` names what was run; `damage` holds messages that mean corruption, `notes` those that do not. `doubt` says
    why the copy may be damaged although nothing was found: it is believed unless the copy before it had no such doubt.
    """

    level: Verification
    checks: Annotated[tuple[Text, ...], MaxLen(20)]
    damage: Annotated[tuple[Text, ...], MaxLen(200)] = ()
    notes: Annotated[tuple[Text, ...], MaxLen(200)] = ()
    foreign_key_violations: Count = 0
    duration_s: Seconds = 0.0
    doubt: Text = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that a stranger needs to trust and to restore one archive; the truth about a generation.

    `store` is the identity of the store that made it: 16 hex digits.
    """

    format: Literal[1]
    id: Name
    source: Name
    store: Annotated[str, Len(16, 16)]
    taken_at: datetime
    backupd_version: Name
    origin: SourceFacts
    snapshot: SnapshotFacts
    archive: ArchiveFacts
    contents: Contents | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation as retention and listings see it; `damaged` is a later check's word against the manifest's."""

    id: str
    source: str
    taken_at: datetime
    archive_bytes: int
    snapshot_bytes: int
    verification: Verification
    damaged: bool = False

    @property
    def verified(self) -> bool:
        """Whether this copy counts: proven when it was made, and not found damaged since."""
        return self.verification != "corrupt" and not self.damaged


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Which generations stay: some of the newest, and the newest of each hour, day, week, month and year.

    All stay that were taken within `within` before the newest verified one, and the newest that was taken earlier.
    """

    last: int = 0
    within: timedelta = timedelta(hours=48)
    hourly: int = 0
    daily: int = 7
    weekly: int = 4
    monthly: int = 0
    yearly: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """A generation that stays, with every reason for it."""

    generation: Generation
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """A generation that goes, with the reason."""

    generation: Generation
    reason: str


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """A retention decision for one source, newest first; nothing has been deleted yet."""

    keep: tuple[Kept, ...]
    remove: tuple[Removed, ...]

    def reasons(self) -> Mapping[str, tuple[str, ...]]:
        """Reasons by id of each generation that stays."""
        return {kept.generation.id: kept.reasons for kept in self.keep}


@dataclass(frozen=True, slots=True)
class Hold:
    """Why nothing of a source may be pruned: `corrupt` ends with a sound backup, both end with an operator's word.

    `reference` is the last good generation; a shrunken source is compared with it until it is accepted. `unreadable`
    means that no damage was found, and that the source could be read before and cannot any more.
    """

    source: Name
    kind: Literal["corrupt", "shrink"]
    since: datetime
    reason: Text
    reference: Name | None
    unreadable: bool = False


@dataclass(frozen=True, slots=True)
class Pin:
    """Why a generation is not pruned, in any store, until `until` (aware; None: until an operator releases it)."""

    generation: Name
    since: datetime
    until: datetime | None
    reason: Text
    label: Text = ""

    def holds(self, at: datetime) -> bool:
        """Whether the generation is still pinned at `at` (aware)."""
        return self.until is None or at < self.until


class Progress(Protocol):
    """Told about the long stages of a job; what it does with that is its own affair."""

    def stage(self, name: str, total_bytes: int) -> None:
        """Hear that a stage begins that will handle about `total_bytes`."""

    def advance(self, done_bytes: int) -> None:
        """Hear that the stage that began last has handled `done_bytes` in all."""


class NoProgress:
    """Tells nobody."""

    def stage(self, name: str, total_bytes: int) -> None:
        """Do nothing."""

    def advance(self, done_bytes: int) -> None:
        """Do nothing."""
