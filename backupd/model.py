"""Frozen values that all rooms share.

Annotations carry the bounds that a manifest from another host must keep; `archive.manifest` enforces them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Protocol

from annotated_types import Ge, Le, Len, MaxLen

ARCHIVE_SUFFIX = ".sqlite3.gz"  # of a database
LIST_SUFFIX = ".files.gz"  # of a set of files: the list of them, whose contents are stored once each
POINT_SUFFIX = ".point.json"
MANIFEST_SUFFIX = ".manifest.json"
LOCAL_STORE = "local"
POINT = "point"  # the first part of the id of a restore point, where that of a generation has its source
MANIFEST_MAX_BYTES = 8 << 20
# A generation that is dated further ahead was dated by a clock that ran ahead.
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

Kind = Literal["database", "files"]
Verification = Literal["full", "structural", "opaque", "corrupt"]
State = Verification | Literal["unknown"]  # unknown: its manifest cannot be read now
Outcome = Literal["published", "unchanged", "done", "failed", "degraded"]
Task = Literal["backup", "replicate", "drill", "prune", "scrub"]
# What a message is about, in the words of Apprise.
Severity = Literal["failure", "warning", "success", "info"]


SUFFIXES: Mapping[Kind, str] = {"database": ARCHIVE_SUFFIX, "files": LIST_SUFFIX}


def archive_name(generation_id: str, kind: Kind) -> str:
    """Return the name of the archive of a generation."""
    return generation_id + SUFFIXES[kind]


def is_generation_id(text: str) -> bool:
    """Return whether `text` can be a generation's id: `SOURCE-YYYYMMDD-HHmm`, with `-N` after a collision."""
    return _GENERATION_ID.fullmatch(text) is not None


def source_of(generation_id: str) -> str:
    """Return the source in a generation's id. Raises ValueError when `generation_id` is not such an id."""
    found = _GENERATION_ID.fullmatch(generation_id)
    if found is None:
        raise ValueError(f"{generation_id[:120]!r} is not the id of a generation")
    return found[1]


def is_source_name(text: str) -> bool:
    """Return whether `text` can name a source: it becomes the first part of file names."""
    return _SOURCE_NAME.fullmatch(text) is not None


def generation_id(source: str, taken_at: datetime, attempt: int = 1) -> str:
    """Name the generation of `source` taken at `taken_at` (aware); `attempt` ≥ 2 tells two in one minute apart."""
    suffix = "" if attempt == 1 else f"-{attempt}"
    t = taken_at.astimezone(UTC)  # strftime takes several times as long, and lists are long
    return f"{source}-{t.year:04}{t.month:02}{t.day:02}-{t.hour:02}{t.minute:02}{suffix}"


def is_point_id(text: str) -> bool:
    """Return whether `text` can be the id of a restore point: `point-YYYYMMDD-HHmm`, with `-N` after a collision."""
    return is_generation_id(text) and source_of(text) == POINT


def utc_from_text(text: str) -> datetime:
    """Read an aware UTC time. Raises ValueError when `text` is not an ISO 8601 time with a zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class FileState:
    """What `os.stat` returns for one file; two equal states more than 2 s apart mean that it was not written to."""

    device: int
    inode: Count
    size_bytes: Count
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Signature:
    """The state of a database and its WAL just before a copy began."""

    database: FileState
    wal: FileState | None  # None: no WAL, or an empty one
    captured_at_ns: int


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """Path, owner and mode of a database and of its directory, so that a restore can set them again.

    An id is None where the user namespace of that backup did not map it.
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
    """An uncompressed copy, and the two SQLite libraries that wrote the source and the copy.

    For an encrypted database, which is copied byte for byte (`file`), the page size is one that fits.
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
    """The gzip file of a snapshot; each of its members holds `member_bytes` of it."""

    sha256: Sha256
    size_bytes: Count
    member_bytes: Annotated[int, Ge(1), Le(4 << 20)]
    members: Count


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a snapshot, by table: ordinary, virtual and shadow tables."""

    tables: Annotated[dict[Text, Count | None], MaxLen(100_000)]  # rows; None where they could not be counted
    schema_sha256: Sha256
    columns: Annotated[dict[Text, Text], MaxLen(100_000)] = field(default_factory=dict)  # digests of column names
    virtual: Annotated[dict[Text, Text], MaxLen(100_000)] = field(default_factory=dict)  # modules in lower case


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of the checks of a snapshot."""

    level: Verification
    checks: Annotated[tuple[Text, ...], MaxLen(20)]  # that were run
    damage: Annotated[tuple[Text, ...], MaxLen(200)] = ()  # messages that mean corruption
    notes: Annotated[tuple[Text, ...], MaxLen(200)] = ()  # messages that do not
    foreign_key_violations: Count = 0
    duration_s: Seconds = 0.0
    doubt: Text = ""  # why the copy may be damaged although no damage was found


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that is needed to verify and to restore the archive of a database; the truth about a generation."""

    format: Literal[1]
    id: Name
    source: Name
    store: Annotated[str, Len(16, 16)]  # identity of the store that made it, in hex digits
    taken_at: datetime
    backupd_version: Name
    origin: SourceFacts
    snapshot: SnapshotFacts
    archive: ArchiveFacts
    contents: Contents | None
    verdict: Verdict

    @property
    def kind(self) -> Literal["database"]:
        """What this is the manifest of."""
        return "database"

    @property
    def content_bytes(self) -> int:
        """The size of what a restore puts in place."""
        return self.snapshot.size_bytes

    @property
    def content_sha256(self) -> str:
        """The digest of what the archive holds."""
        return self.snapshot.sha256


@dataclass(frozen=True, slots=True)
class DirectoryFacts:
    """Path, owner and mode of a directory of files; an id is None where the user namespace did not map it."""

    path: Text
    uid: Count | None
    gid: Count | None
    mode: Annotated[int, Ge(0), Le(0o7777)]


@dataclass(frozen=True, slots=True)
class FilesFacts:
    """What a set of files is: its list, uncompressed, and the sums over its entries."""

    list_sha256: Sha256
    list_bytes: Count
    files: Count
    directories: Count  # below the one of the set
    links: Count
    size_bytes: Count  # of all files, those of equal contents included
    skipped: Count  # sockets, pipes, devices, and what could not be read


@dataclass(frozen=True, slots=True)
class FilesManifest:
    """All that is needed to verify and to restore a set of files, but for the contents that its list names by digest.

    `kind` is the first line of its JSON, which tells it from the manifest of a database.
    """

    kind: Literal["files"]
    format: Literal[1]
    id: Name
    source: Name
    store: Annotated[str, Len(16, 16)]
    taken_at: datetime
    backupd_version: Name
    origin: DirectoryFacts
    files: FilesFacts
    archive: ArchiveFacts  # of the list
    verdict: Verdict

    @property
    def content_bytes(self) -> int:
        """The size of what a restore puts in place."""
        return self.files.size_bytes

    @property
    def content_sha256(self) -> str:
        """The digest of what the archive holds."""
        return self.files.list_sha256


AnyManifest = Manifest | FilesManifest


@dataclass(frozen=True, slots=True)
class PointPart:
    """One source of a restore point: the generation that holds it as of an instant from `since` to `until` (aware)."""

    source: Name
    kind: Kind
    generation: Name
    archive_sha256: Sha256
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """The generations of one run, which are restored, kept and removed together; no source is missing in it."""

    format: Literal[1]
    id: Name
    store: Annotated[str, Len(16, 16)]
    taken_at: datetime  # the earliest instant of a part
    backupd_version: Name
    parts: Annotated[tuple[PointPart, ...], Len(1, 1000)]

    @property
    def spread_ms(self) -> int:
        """How far apart the instants of the parts are at most, in milliseconds, rounded up."""
        spread = max(part.until for part in self.parts) - min(part.since for part in self.parts)
        return -(-spread // timedelta(milliseconds=1))

    @property
    def generations(self) -> frozenset[str]:
        """The ids of the generations of its parts."""
        return frozenset(part.generation for part in self.parts)


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation as retention and listings see it."""

    id: str
    source: str
    taken_at: datetime
    archive_bytes: int
    snapshot_bytes: int
    verification: State  # when it was made
    damaged: bool = False  # a later check found damage
    kind: Kind = "database"

    @property
    def verified(self) -> bool:
        """Whether this copy counts: it was verified when it was made, and no later check found damage."""
        return self.verification not in ("corrupt", "unknown") and not self.damaged

    @property
    def state(self) -> State:
        """The verification that lists show."""
        return "corrupt" if self.damaged else self.verification


@dataclass(frozen=True, slots=True)
class Hold:
    """Why nothing of a source is pruned, until a good backup or an operator releases it."""

    source: Name
    kind: Literal["corrupt", "shrink", "missing"]
    since: datetime
    reason: Text
    reference: Name | None  # the last good generation; a shrunken source is compared with it until it is accepted
    unreadable: bool = False  # no damage was found, but the source could be read before and cannot be read now


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
    """Receives the progress of the long stages of a task."""

    def stage(self, name: str, total_bytes: int) -> None:
        """Begin a stage that will process about `total_bytes`."""

    def advance(self, done_bytes: int) -> None:
        """Report that the current stage has processed `done_bytes` in all."""


class NoProgress:
    """Shows no progress."""

    def stage(self, name: str, total_bytes: int) -> None:
        """Do nothing."""

    def advance(self, done_bytes: int) -> None:
        """Do nothing."""
