"""What a task is asked to do: frozen values, which `backupd.bootstrap.tasks` makes from the configuration."""

from dataclasses import dataclass, field
from datetime import UTC, timedelta, tzinfo
from pathlib import Path
from typing import Final, TypeAlias

from backupd.errors import UsageError
from backupd.formatting import printable
from backupd.retention import RetentionPolicy
from backupd.sqlite.discovery import Search
from backupd.sqlite.worker.protocol import SnapshotSettings
from backupd.system.resources import NORMAL, Priority

# For which a generation is pinned that was not taken by schedule, unless the request says otherwise.
REQUESTED_STAYS: Final = timedelta(days=30)
_LONGEST_LABEL: Final = 200


@dataclass(frozen=True, slots=True)
class ShrinkGuard:
    """Which losses since the last generation hold the pruning; losses are fractions of what was there."""

    enabled: bool = True
    max_row_loss: float = 0.5  # of each table
    max_size_loss: float = 0.5  # of the database
    min_rows: int = 100  # tables that had fewer rows are not compared


@dataclass(frozen=True, slots=True)
class Packing:
    """How to compress."""

    level: int | None = None  # of libdeflate; None: chosen by a sample
    workers: int = 2  # threads
    priority: Priority = NORMAL


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """Which generations stay: the policy, and the time zone whose days and weeks it counts."""

    policy: RetentionPolicy = field(default_factory=RetentionPolicy)
    timezone: tzinfo = UTC


@dataclass(frozen=True, slots=True)
class PinRequest:
    """Pin a generation, so that it is not pruned."""

    reason: str
    duration: timedelta | None = None  # None: until an operator releases it
    label: str = ""


def requested_pin(reason: str, label: str, pin: bool | timedelta | None) -> PinRequest | None:  # noqa: FBT001 - of two kinds
    """Return how the generation of a backup is pinned that was not taken by schedule; None where it is not.

    `pin` is whether, or for how long; None: for `REQUESTED_STAYS`. Raises UsageError for a label that a list cannot
    show, and for one without a pin.
    """
    text = read_label(label)
    if pin is not False:
        duration = REQUESTED_STAYS if pin is None else None if pin is True else pin
        return PinRequest(reason, duration, text)
    if text:
        raise UsageError("a label is part of a pin, and this backup is not to be pinned", "give one of the two")
    return None


def read_label(text: str | None) -> str:
    """Return a label without outer spaces, empty for none. Raises UsageError for one that a list cannot show."""
    label = (text or "").strip()
    if printable(label) != label or len(label) > _LONGEST_LABEL:
        raise UsageError(
            f"the label {label[:60]!r} cannot be shown in a list", f"one line, {_LONGEST_LABEL} characters at most"
        )
    return label


@dataclass(frozen=True, slots=True)
class Hook:
    """What is called: a command, else a URL."""

    command: tuple[str, ...] = ()
    url: str = field(default="", repr=False)  # its query may be a secret


@dataclass(frozen=True, slots=True)
class Hooks:
    """What is called around backups; None: nothing."""

    before: Hook | None = None
    after: Hook | None = None
    timeout_s: float = 60.0  # for each


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """Back up one source."""

    source: str
    path: Path
    settings: SnapshotSettings = field(default_factory=SnapshotSettings)
    allow_empty: bool = False  # publish a database that has lost all its tables
    allow_links: bool = False  # accept a database with several hard links
    packing: Packing = field(default_factory=Packing)
    retention: RetentionRule | None = field(default_factory=RetentionRule)  # None: prune nothing
    guard: ShrinkGuard = field(default_factory=ShrinkGuard)
    reserve_bytes: int | None = None  # that stay free; None: 5 % of the file system, at most 1 GiB
    timezone_warning: str = ""  # why days are not counted in the configured zone
    replicas: tuple[str, ...] = ()  # names; the last replication to each is mentioned if it failed
    pin: PinRequest | None = None  # for the generation that holds the copy, a new or an unchanged one
    search: Search | None = None  # that has found the database, one of several; of its path, where it has found none
    search_warning: str = ""  # why it may not have found all
    hooks: Hooks = field(default_factory=Hooks)


@dataclass(frozen=True, slots=True)
class FilesRequest:
    """Back up one set of files."""

    source: str
    path: Path  # the directory
    exclude: tuple[str, ...] = ()  # patterns as in .gitignore, relative to `path`
    database: str = ""  # the source that the files belong to; empty: none that there is now
    query: str | None = None  # whose rows name files that must be in the copy
    timeout_s: float = 3600
    databases: tuple[Path, ...] = ()  # of all sources; with their side files they are left out
    packing: Packing = field(default_factory=Packing)
    retention: RetentionRule | None = field(default_factory=RetentionRule)  # None: prune nothing
    guard: ShrinkGuard = field(default_factory=ShrinkGuard)
    reserve_bytes: int | None = None  # as in BackupRequest
    timezone_warning: str = ""
    replicas: tuple[str, ...] = ()
    pin: PinRequest | None = None
    hooks: Hooks = field(default_factory=Hooks)

    @property
    def unread_query(self) -> str:
        """Why the query can be run on no database, empty where it can, or there is none."""
        if not self.query or self.database:
            return ""
        name = f"files.{self.source}"
        return f"{name}.query was not run: set {name}.with to the source whose database it reads"


AnyBackupRequest: TypeAlias = BackupRequest | FilesRequest


@dataclass(frozen=True, slots=True)
class ReplicationRequest:
    """Send to one replica what its retention rule keeps, and prune there."""

    name: str
    retention: RetentionRule
    sources: tuple[str, ...] = ()  # configured ones; those in the local store are sent as well, others are left alone
    append_only: bool = False  # remove nothing at the replica
    adopt: bool = False  # first adopt the stores of lost machines; the next run prunes
    force: bool = False  # adopt also a store that seems to be in use


@dataclass(frozen=True, slots=True)
class AppCheck:
    """How to check that the app works on a restored copy; what is None or empty is not checked."""

    timeout_s: float
    place_at: Path | None = None  # where the app expects its database; never one of `databases`
    command: tuple[str, ...] = ()
    health_url: str | None = None
    user_version: int | None = None
    query: str | None = None
    answer: str | None = None  # that the query must return
    databases: tuple[Path, ...] = ()  # of all sources
    secrets: frozenset[str] = field(default=frozenset(), repr=False)  # removed from the environment of the command


@dataclass(frozen=True, slots=True)
class DrillRequest:
    """Restore the newest copy of one source from one store, and check it."""

    source: str
    store: str
    max_age_s: float  # that the data of the copy may have
    workers: int = 2
    reserve_bytes: int | None = None  # as in BackupRequest
    app: AppCheck | None = None
    note: str = ""  # how the store was chosen
    path: Path | None = None  # of the database of the source
    files: FilesRequest | None = None  # where the source is a set of files
    unclear: str = ""  # why it is not known which source the app is checked on: the drill fails
