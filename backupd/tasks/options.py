"""What a backup is asked to do: one frozen value, made from the configuration by `backupd.bootstrap.tasks`."""

from dataclasses import dataclass, field
from datetime import UTC, timedelta, tzinfo
from pathlib import Path

from backupd.model import RetentionPolicy
from backupd.sqlite.snapshot import SnapshotSettings
from backupd.system.resources import NORMAL, Priority


@dataclass(frozen=True, slots=True)
class ShrinkGuard:
    """Which losses against the last generation are alarming, as fractions of what was there."""

    enabled: bool = True
    max_row_loss: float = 0.5
    max_size_loss: float = 0.5
    min_rows: int = 100


@dataclass(frozen=True, slots=True)
class Packing:
    """How to compress: libdeflate's level (None: by a sample), threads, and how far to step aside for the app."""

    level: int | None = None
    workers: int = 2
    priority: Priority = NORMAL


@dataclass(frozen=True, slots=True)
class Expiry:
    """What may stay: the policy, and the time zone whose days and weeks it counts."""

    policy: RetentionPolicy = field(default_factory=RetentionPolicy)
    timezone: tzinfo = UTC


@dataclass(frozen=True, slots=True)
class PinRequest:
    """Keep a generation from being pruned for `duration` (None: until an operator releases it)."""

    reason: str
    duration: timedelta | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """One source and how to back it up; `reserve_bytes` of None means 5 % of the file system, at most 1 GiB.

    Without `expiry` nothing is pruned. `replicas` are where copies should be as well.
    `timezone_warning` says why days are not counted in the zone that was asked for. With `pin` the generation that
    holds the copy is pinned, a new one or the one that the database has not changed since.
    """

    source: str
    path: Path
    settings: SnapshotSettings = field(default_factory=SnapshotSettings)
    allow_empty: bool = False
    allow_links: bool = False
    packing: Packing = field(default_factory=Packing)
    expiry: Expiry | None = field(default_factory=Expiry)
    guard: ShrinkGuard = field(default_factory=ShrinkGuard)
    reserve_bytes: int | None = None
    timezone_warning: str = ""
    replicas: tuple[str, ...] = ()
    pin: PinRequest | None = None


@dataclass(frozen=True, slots=True)
class AppProof:
    """How to prove that the app works on a restored copy; what is None or empty is not asked for.

    `place_at` is never one of the `databases`. The command's environment lacks the `secrets`.
    """

    timeout_s: float
    place_at: Path | None = None
    command: tuple[str, ...] = ()
    health_url: str | None = None
    user_version: int | None = None
    query: str | None = None
    answer: str | None = None
    databases: tuple[Path, ...] = ()
    secrets: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, slots=True)
class DrillRequest:
    """One source and the store that it is to be restored from; `note` says how that store was chosen.

    The newest copy there may be `max_age_s` old; at least `reserve_bytes` stay free where it is restored, as in a
    `BackupRequest`. `path` is where the database of the source lies.
    """

    source: str
    store: str
    max_age_s: float
    workers: int = 2
    reserve_bytes: int | None = None
    app: AppProof | None = None
    note: str = ""
    path: Path | None = None
