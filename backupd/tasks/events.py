"""What happens during a task, as frozen events; each says what its lines in `backup.log` are."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from backupd.errors import CatalogUnavailable
from backupd.log import Event
from backupd.model import LOCAL_STORE, AnyManifest, Hold, Pin
from backupd.stores.contract import RecoveredItem, Transfer
from backupd.system.file_lock import LockHolder


@dataclass(frozen=True, slots=True)
class EventLine:
    """One line of the log; facts that are None are left out."""

    level: Literal["info", "warning", "error"]
    event: Event
    message: str
    facts: Mapping[str, object] = field(default_factory=dict)


class TaskEvent:
    """Something that has happened in a task."""

    __slots__ = ()

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        return iter(())


HookEvent = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class HookCalled(TaskEvent):
    """A hook has ended; `failure` is empty where it succeeded, and `said` the last line of a command."""

    hook: HookEvent
    source: str
    failure: str
    said: str
    not_now: bool = False

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        facts = {"hook": self.hook, "source": self.source, "output": self.said or None}
        what = f"hooks.{self.hook} of {self.source} {f'failed: {self.failure}' if self.failure else 'succeeded'}"
        if self.not_now:
            what = f"hooks.{self.hook} of {self.source} asks to try again later: {self.failure}"
        level: Literal["info", "warning"] = "warning" if self.failure and not self.not_now else "info"
        yield EventLine(level, Event.HOOK_CALLED, what, facts)


@dataclass(frozen=True, slots=True)
class SnapshotRetried(TaskEvent):
    """The source is copied a second time."""

    source: str
    why: str

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        yield EventLine("warning", Event.SNAPSHOT_RETRIED, self.why, {"source": self.source})


@dataclass(frozen=True, slots=True)
class SnapshotQuarantined(TaskEvent):
    """A copy that may not be published is kept in the quarantine of the store."""

    why: str
    directory: Path

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        yield EventLine("error", Event.SNAPSHOT_QUARANTINED, self.why, {"quarantine": str(self.directory)})


@dataclass(frozen=True, slots=True)
class SourceUnchanged(TaskEvent):
    """The source holds, digest for digest, what this generation holds."""

    manifest: AnyManifest

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        what = f"{self.manifest.source} is what {self.manifest.id} holds: verified unchanged"
        yield EventLine("info", Event.SNAPSHOT_UNCHANGED, what, {"generation": self.manifest.id})


@dataclass(frozen=True, slots=True)
class PruningHeld(TaskEvent):
    """Nothing of the source is pruned from now on."""

    hold: Hold

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        source, reason, facts = self.hold.source, self.hold.reason, {"source": self.hold.source}
        if self.hold.kind == "shrink":
            yield EventLine("warning", Event.SOURCE_SHRUNK, reason, facts)
        yield EventLine("warning", Event.PRUNING_HELD, f"pruning of {source} is on hold: {reason}", facts)


@dataclass(frozen=True, slots=True)
class PruningReleased(TaskEvent):
    """The source is pruned again, after a good backup or because an operator said so."""

    source: str
    by_operator: bool = False

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        facts = {"source": self.source}
        if self.by_operator:
            what = f"an operator released the pruning of {self.source}"
            yield EventLine("warning", Event.PRUNING_RELEASED, what, facts)
        else:
            yield EventLine("info", Event.PRUNING_RELEASED, f"{self.source} is good again: it is pruned again", facts)


@dataclass(frozen=True, slots=True)
class GenerationPublished(TaskEvent):
    """A generation is in the local store."""

    manifest: AnyManifest

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        key, archive = self.manifest.id, self.manifest.archive
        facts = {"generation": key, "archive_bytes": archive.size_bytes, "archive_sha256": archive.sha256}
        yield EventLine("info", Event.GENERATION_PUBLISHED, f"{key} is in place", facts)


@dataclass(frozen=True, slots=True)
class GenerationSent(TaskEvent):
    """A generation is at a replica, and was verified there."""

    manifest: AnyManifest
    store: str
    transfer: Transfer

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        facts = asdict(self.transfer) | {"generation": self.manifest.id, "store": self.store}
        del facts["fallback_reason"]  # a note of the run
        facts["contents"] = self.transfer.contents or None  # which a database has none of
        what = f"{self.manifest.id} is at {self.store}, and equal ({self.transfer.verified_by})"
        yield EventLine("info", Event.GENERATION_SENT, what, facts)


@dataclass(frozen=True, slots=True)
class CopyVerified(TaskEvent):
    """A check of the copy in one store ended; `detail` says what it found."""

    generation: str
    store: str
    sound: bool
    detail: str
    duration_s: float = 0.0

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        if not self.sound:
            where = "" if self.store == LOCAL_STORE else f" at {self.store}"
            facts = {"generation": self.generation, "store": self.store}
            yield EventLine("error", Event.GENERATION_DAMAGED, f"{self.generation}{where}: {self.detail}", facts)


@dataclass(frozen=True, slots=True)
class CopyForgotten(TaskEvent):
    """The catalog forgets a copy that a store is about to remove, or that was `lost` there.

    After a kill in between it lacks a copy until the next run removes that, and never lists one that is gone.
    """

    generation: str
    store: str
    lost: bool = False

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        if self.lost:
            facts = {"generation": self.generation, "store": self.store}
            yield EventLine("warning", Event.GENERATION_LOST, f"{self.generation} is no longer at {self.store}", facts)


@dataclass(frozen=True, slots=True)
class GenerationRemoved(TaskEvent):
    """A store has removed its copy."""

    generation: str
    store: str
    reason: str

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        facts = asdict(self) | {"store": None if self.store == LOCAL_STORE else self.store}
        what = f"removed {self.generation}{f' at {self.store}' if facts['store'] else ''}: {self.reason}"
        yield EventLine("info", Event.GENERATION_REMOVED, what, facts)


@dataclass(frozen=True, slots=True)
class GenerationPinned(TaskEvent):
    """A generation is not pruned while its pin holds."""

    pin: Pin

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        pin, until = self.pin, f"{self.pin.until:%F %T} UTC" if self.pin.until else "it is released"
        facts = {"generation": pin.generation, "reason": pin.reason, "label": pin.label or None}
        facts["until"] = pin.until.isoformat() if pin.until else None
        what = f"{pin.generation} is pinned until {until}: {pin.reason}"
        yield EventLine("info", Event.GENERATION_PINNED, what, facts)


@dataclass(frozen=True, slots=True)
class GenerationUnpinned(TaskEvent):
    """The retention policy alone decides about the generation again."""

    generation: str
    reason: str

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        what = f"{self.generation} is no longer pinned: {self.reason}"
        yield EventLine("info", Event.GENERATION_UNPINNED, what, {"generation": self.generation, "reason": self.reason})


@dataclass(frozen=True, slots=True)
class SnapshotProgressed(TaskEvent):
    """The process that copies the source has something to tell, such as that it waits for a quiet moment."""

    event: str
    what: str
    source: str

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        yield EventLine("info", Event(self.event), self.what, {"source": self.source})


@dataclass(frozen=True, slots=True)
class GenerationVerified(TaskEvent):
    """A verification that an operator asked for, or a scrub of a damaged generation, found the copy sound."""

    generation: str
    store: str
    was_damaged: bool = False  # it was marked so until now

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        what = "is whole again, and counts: it was marked as damaged" if self.was_damaged else "is verified"
        facts = {"generation": self.generation, "store": self.store}
        yield EventLine("info", Event.GENERATION_VERIFIED, f"{self.generation} {what}", facts)


@dataclass(frozen=True, slots=True)
class GenerationRestored(TaskEvent):
    """A generation, or a database that was kept, is at its target, with what is needed to take that back."""

    what: str
    generation: str | None
    target: str
    snapshot_sha256: str | None = None
    kept: str | None = None
    undo: str | None = None

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        facts = asdict(self)
        yield EventLine("info", Event.GENERATION_RESTORED, facts.pop("what"), facts)


@dataclass(frozen=True, slots=True)
class RestoreRecovered(TaskEvent):
    """A restore that was killed is finished or undone."""

    what: str
    target: Path

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        yield EventLine("warning", Event.RESTORE_RECOVERED, self.what, {"target": str(self.target)})


@dataclass(frozen=True, slots=True)
class WorkRecovered(TaskEvent):
    """What a killed run left in a store was finished or swept."""

    found: RecoveredItem

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        name, facts = self.found.name, {"generation": self.found.name}
        match self.found.kind:
            case "removal" | "publication" as kind:
                event = Event.REMOVAL_RECOVERED if kind == "removal" else Event.PUBLISH_RECOVERED
                yield EventLine("warning", event, f"finished the {kind} of {name} that a killed run had begun", facts)
            case "staging" if self.found.problem:
                what = f"could not remove the unfinished work {name} of a killed run: {self.found.problem}"
                yield EventLine("warning", Event.STAGING_STUCK, what)
            case "staging":
                yield EventLine("warning", Event.STAGING_SWEPT, f"removed the unfinished work {name} of a killed run")


@dataclass(frozen=True, slots=True)
class LockAwaited(TaskEvent):
    """Another run has the lock; it is waited for."""

    holder: LockHolder | None
    timeout_s: float

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        who = _process(self.holder) if self.holder else "another run"
        yield EventLine("info", Event.LOCK_WAITING, f"waiting for {who} to end, {self.timeout_s:.0f} s at most")


@dataclass(frozen=True, slots=True)
class LockTakenOver(TaskEvent):
    """The run that had the lock has died."""

    dead: LockHolder

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        yield EventLine("warning", Event.LOCK_TAKEN_OVER, f"{_process(self.dead)} died holding the lock: taken over")


@dataclass(frozen=True, slots=True)
class PinsLost(TaskEvent):
    """All `generations` of the store are pinned, since it has lost its pins."""

    generations: int
    until: datetime
    reason: str

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        what = f"{self.generations} generations are pinned until {self.until:%F %T} UTC: {self.reason}"
        facts = {"reason": self.reason, "until": self.until.isoformat()}
        yield EventLine("warning", Event.GENERATION_PINNED, what, facts)


@dataclass(frozen=True, slots=True)
class ManifestRefused(TaskEvent):
    """A generation of the local store does not count."""

    generation: str
    why: str
    hint: str

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        yield EventLine("warning", Event.MANIFEST_REFUSED, self.why, {"generation": self.generation, "hint": self.hint})


@dataclass(frozen=True, slots=True)
class StoreAdopted(TaskEvent):
    """The generations of a store that is lost count as own."""

    what: str
    store: str
    source: str
    identity: str

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        facts = asdict(self)
        yield EventLine("warning", Event.STORE_ADOPTED, facts.pop("what"), facts)


@dataclass(frozen=True, slots=True)
class LeftoverRemoved(TaskEvent):
    """What a restore or a damaged copy had left is removed."""

    what: str
    source: str
    path: Path

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        yield EventLine("info", Event.LEFTOVER_REMOVED, self.what, {"source": self.source, "path": str(self.path)})


@dataclass(frozen=True, slots=True)
class StoreListed(TaskEvent):
    """The local store holds the generations `present`; the catalog is to list no others, and all with a manifest."""

    store: str
    present: frozenset[str]
    manifests: Mapping[str, AnyManifest]


@dataclass(frozen=True, slots=True)
class CatalogRebuilt(TaskEvent):
    """The catalog was made from so many manifests."""

    generations: int

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        what = f"catalog rebuilt from {self.generations} manifests"
        yield EventLine("info", Event.CATALOG_REBUILT, what, asdict(self))


@dataclass(frozen=True, slots=True)
class CatalogUnusable(TaskEvent):
    """The catalog could not be read or written, which stops nothing."""

    error: CatalogUnavailable

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        yield EventLine("warning", Event.CATALOG_UNAVAILABLE, f"{self.error.message}: {self.error.hint}")


def _process(holder: LockHolder) -> str:
    return f"a {holder.task} (process {holder.pid} on {holder.host})"
