"""What the drills of several sources share: one opening of the store, and the restore point that they are from."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, Self, TypeVar

from backupd.errors import BackupdError, DrillFailed, GenerationMissing, LockHeld, NewestUnusable
from backupd.formatting import human_duration
from backupd.model import LOCAL_STORE, AnyManifest, FilesManifest, Manifest, RestorePoint
from backupd.report import DrillDetails, DrillReport
from backupd.system.held_file import HeldFile
from backupd.tasks.choice import LATEST, Accept, accepting_damage, require_newest
from backupd.tasks.contents_check import ContentsCheck
from backupd.tasks.context import TaskContext, read_inventory
from backupd.tasks.freshness import last_verified_at
from backupd.tasks.inventory import Inventory, require_same_database
from backupd.tasks.provenance import ForeignGenerations, provenance_of, refusal
from backupd.tasks.references import References
from backupd.tasks.replica import Retry, replica_errors
from backupd.tasks.requests import DrillRequest
from backupd.tasks.restore.extract import FilesStore
from backupd.tasks.restore.point_choice import choose_point, require_newest_point
from backupd.tasks.run import DrillRun

SEND_AGAIN: Final = "use another generation, and send this one again (backupd replicate)"
_FEWEST: Final = 2  # sources that a restore point holds together
M = TypeVar("M", Manifest, FilesManifest)
OpenStore = Callable[[], AbstractContextManager[tuple[FilesStore, Inventory]]]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The copy of one source that is drilled, and as of when it holds that (aware)."""

    manifest: AnyManifest
    as_of: datetime


@dataclass(frozen=True, slots=True)
class OpenedStore:
    """A store to drill from, and what is chosen there."""

    store: FilesStore
    inventory: Inventory  # without what other stores have made
    foreign: tuple[ForeignGenerations, ...]  # what those have made
    point: RestorePoint | None  # that the copies are from; None: they are the newest
    warning: str  # why they are not from a newer restore point
    contents: ContentsCheck

    def part_of(self, source: str) -> str | None:
        """Return the generation of a source in the restore point, None where it is not in there."""
        parts = self.point.parts if self.point else ()
        return next((part.generation for part in parts if part.source == source), None)


class DrillSession:
    """Drills of `requests`, all from one store, which is opened once, by the first of them that gets so far."""

    def __init__(
        self,
        requests: Sequence[DrillRequest],
        open_store: OpenStore,
        retry: Retry,
        accept: Accept,
        context: TaskContext,
    ) -> None:
        self.requests, self._accept, self._context = requests, accept, context
        self._open_store, self._retry = open_store, retry
        self._stack = ExitStack()
        self._is_locked = False
        self._opened: OpenedStore | BackupdError | OSError | None = None
        self._references: dict[str, References | BackupdError] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def lock(self) -> None:
        """Hold the lock of drills until the session ends: the second instance of the app has one database.

        Raises LockHeld, StoreUnusable.
        """
        if not self._is_locked:
            self._stack.enter_context(self._context.task_lock("drill"))
            self._is_locked = True

    def sweep(self) -> None:
        """Remove what a killed drill left in staging; another run that has the store has done so. Raises OSError."""
        with suppress(LockHeld), replace(self._context, lock_timeout_s=0).exclusive_lock("drill"):
            self._context.recover()

    def opened(self, place: Path) -> OpenedStore:
        """Return the store, for drills in the directory `place`. Raises what opening it raises, each time the same."""
        if self._opened is None:
            try:
                self._opened = self._open(place)
            except (BackupdError, OSError) as error:
                self._opened = error
        if isinstance(self._opened, OpenedStore):
            return self._opened
        raise self._opened

    def read_references(self, database: Manifest, restored: HeldFile, run: DrillRun) -> None:
        """Ask a restored database which files it names, for the sets of files that are in the same restore point.

        What fails is raised by `references`. It has to be asked before its app may write to it. Raises OSError.
        """
        opened = self._opened
        assert isinstance(opened, OpenedStore)  # noqa: S101 - the database is from there
        for files in [request.files for request in self.requests if request.files and request.files.query]:
            part = opened.part_of(files.source)
            if files.database == database.source and opened.part_of(database.source) and part:
                with run.stage("references"):
                    try:
                        found = References.read(restored, files, opened.inventory.manifests[part].origin.path)
                    except BackupdError as error:
                        self._references[files.source] = error
                    else:
                        self._references[files.source] = found

    def references(self, source: str) -> References | None:
        """Return which files the database of a set names; None where it was not restored with this set.

        Raises DrillFailed, SnapshotFailed.
        """
        found = self._references.get(source)
        if isinstance(found, BackupdError):
            raise found
        return found

    def _open(self, place: Path) -> OpenedStore:
        request = self.requests[0]

        def connect() -> tuple[FilesStore, Inventory]:
            with replica_errors(request.store):
                return self._stack.enter_context(self._open_store())

        store, inventory = self._retry(connect)
        inventory, foreign = inventory.refusing_oversized(place), tuple[ForeignGenerations, ...]()
        if request.store != LOCAL_STORE:
            provenance = provenance_of(read_inventory(self._context), self._context)
            foreign = provenance.foreign(inventory)
            inventory = inventory.without({key for group in foreign for key in group.ids} - inventory.replaced)
            points = {key: point for key, point in inventory.points.items() if provenance.counts(point)}
            inventory = replace(inventory, points=points)
        point, warning = self._choose_point(inventory) if len(self.requests) > 1 else (None, "")
        threads = request.workers if request.store == LOCAL_STORE else 0
        return OpenedStore(store, inventory, foreign, point, warning, ContentsCheck(store.contents, threads))

    def _choose_point(self, inventory: Inventory) -> tuple[RestorePoint | None, str]:
        """Return the newest restore point of these sources, None where it is too old, and what to warn of."""
        try:
            newest = choose_point(inventory, LATEST, None)
        except GenerationMissing:
            return None, ""
        except NewestUnusable as error:
            return None, error.message
        point, warning = newest.point, require_newest_point(newest, inventory, lambda _warning: True)
        if len({part.source for part in point.parts} & {request.source for request in self.requests}) < _FEWEST:
            return None, ""
        for request in self.requests:
            chosen, other = (self._copy_of(request.source, inventory, one) for one in (point, None))
            limit_s = request.max_age_s
            if chosen and other and (age_s := self._age_s(chosen)) > limit_s >= self._age_s(other):
                what = f"the newest restore point at {request.store} ({point.id}) is {human_duration(age_s)} old"
                why = f"more than {human_duration(limit_s)}"
                return None, f"{what}, {why}: the newest copy of each source was restored instead"
        return point, warning

    def _copy_of(self, source: str, inventory: Inventory, point: RestorePoint | None) -> Chosen | None:
        """Return the copy of a source in `point`, else its newest one that counts; None where there is none."""
        newest = inventory.last_verified(source)
        part = next((part for part in point.parts if part.source == source), None) if point else None
        if part and (newest is None or part.generation != newest.id):
            return Chosen(inventory.manifests[part.generation], part.until)
        as_of = last_verified_at(source, inventory, self._context)
        return Chosen(newest, as_of) if newest and as_of else None

    def _age_s(self, chosen: Chosen) -> float:
        return max(0.0, (self._context.clock() - chosen.as_of).total_seconds())

    def choose(self, request: DrillRequest, kind: type[M], opened: OpenedStore, run: DrillRun) -> M:
        """Return the manifest of the copy that is drilled: of the restore point, else of the newest copy that counts.

        Raises GenerationMissing, ForeignCopies, OtherDatabase, CopyUnreadable, GenerationTaken; DrillFailed when it is
        too old.
        """
        inventory, source = opened.inventory, request.source
        chosen = self._copy_of(source, inventory, opened.point)
        foreign = [group for group in opened.foreign if group.source == source]
        if foreign and chosen is None:
            now = self._context.clock()
            raise refusal(foreign, request.store, "a drill of them would prove nothing for this app", now)
        if chosen is None or not isinstance(chosen.manifest, kind):  # its name was used for one of another kind before
            inventory.require_readable(source)
            raise GenerationMissing(
                f"{request.store} has no verified copy of {source}: nothing could be restored from it",
                "run backupd replicate, or backupd backup first",
            )
        manifest = chosen.manifest
        if request.path is not None:
            require_same_database(manifest, inventory, request.path)
        if opened.warning:
            run.warn(opened.warning)
        if warning := require_newest(manifest, inventory, accepting_damage(self._accept, manifest, inventory)):
            run.warn(warning)
        age_s = round(self._age_s(chosen), 3)
        in_point = opened.point is not None and manifest.id in opened.point.generations
        drill = DrillReport(
            request.store,
            request.max_age_s,
            manifest.taken_at,
            age_s,
            point=opened.point.id if opened.point and in_point else None,
        )
        run.details = DrillDetails(generation=manifest.id, drill=drill)
        if age_s > request.max_age_s:
            raise DrillFailed(
                f"the newest verified copy of {source} at {request.store} ({manifest.id}) is "
                f"{human_duration(age_s)} old, more than {human_duration(request.max_age_s)}: a restore "
                "would lose everything since then",
                "see in backupd status why nothing newer is sent, then run backupd replicate",
            )
        return manifest
