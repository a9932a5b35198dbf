"""What happens to restore points and to the contents of files in a store, as frozen events; see `tasks.events`."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from backupd.formatting import counted, human_bytes
from backupd.log import Event
from backupd.model import LOCAL_STORE, RestorePoint
from backupd.tasks.events import EventLine, TaskEvent


@dataclass(frozen=True, slots=True)
class PointPublished(TaskEvent):
    """The index of a restore point is in the local store."""

    point: RestorePoint

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        key, parts, apart_ms = self.point.id, sorted(self.point.generations), self.point.spread_ms
        facts = {"point": key, "generations": parts, "spread_ms": apart_ms}
        what = f"{key} is in place: {len(parts)} sources, {apart_ms} ms apart at most"
        yield EventLine("info", Event.POINT_PUBLISHED, what, facts)


@dataclass(frozen=True, slots=True)
class PointRemoved(TaskEvent):
    """A store has removed the index of a restore point; its generations are pruned as others are."""

    point: str
    store: str
    reason: str

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        facts = asdict(self) | {"store": None if self.store == LOCAL_STORE else self.store}
        yield EventLine("info", Event.POINT_REMOVED, f"removed {self.point}{_at(self.store)}: {self.reason}", facts)


@dataclass(frozen=True, slots=True)
class PointSent(TaskEvent):
    """The index of a restore point is at a replica, as all of its parts are."""

    point: str
    store: str

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        yield EventLine("info", Event.POINT_SENT, f"{self.point} is at {self.store}, with all its parts", asdict(self))


@dataclass(frozen=True, slots=True)
class ContentsSwept(TaskEvent):
    """A store has removed contents of files that no list names any more."""

    store: str
    contents: int
    stored_bytes: int

    def entries(self) -> Iterator[EventLine]:
        """Yield its lines."""
        facts = asdict(self) | {"store": None if self.store == LOCAL_STORE else self.store}
        what = f"removed {counted(self.contents, 'content')} of files{_at(self.store)} that no generation needs"
        yield EventLine("info", Event.CONTENTS_SWEPT, f"{what} ({human_bytes(self.stored_bytes)})", facts)


def _at(store: str) -> str:
    return "" if store == LOCAL_STORE else f" at {store}"
