"""All that a store holds, by its manifests."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Literal

from backupd.archive.manifest import decode_manifest
from backupd.errors import (
    BackupdError,
    CopyUnreadable,
    GenerationMissing,
    GenerationTaken,
    ManifestInvalid,
    OtherDatabase,
    StoreUnusable,
)
from backupd.formatting import human_bytes
from backupd.model import (
    CLOCK_TOLERANCE,
    LOCAL_STORE,
    MANIFEST_SUFFIX,
    AnyManifest,
    Generation,
    Kind,
    Manifest,
    RestorePoint,
    archive_name,
    source_of,
)
from backupd.problems import refused_step
from backupd.stores.contract import ListedGeneration, Store
from backupd.system.fs import visible_directory
from backupd.system.mounts import responds
from backupd.system.resources import total_bytes
from backupd.tasks.stored_points import take_points


@dataclass(frozen=True, slots=True)
class Inventory:
    """All generations of a store."""

    generations: tuple[Generation, ...]  # newest first
    manifests: Mapping[str, AnyManifest]  # by id, those that could be read
    refused: Mapping[str, str]  # by id, why the others could not, or may not be used
    now: datetime  # a generation that is dated later was taken by a clock that ran ahead, and never counts as newest
    lost: frozenset[str] = frozenset()  # ids of refused ones whose archive is gone, at a replica the whole copy
    store: str = LOCAL_STORE
    unreadable: frozenset[str] = frozenset()  # ids of refused ones whose manifest cannot be read now: no damage
    replaced: frozenset[str] = frozenset()  # ids of refused ones that are not the copies that this store has made
    points: Mapping[str, RestorePoint] = field(default_factory=dict)  # by id, those whose index could be read
    refused_points: Mapping[str, str] = field(default_factory=dict)  # by id, why the others could not
    unreadable_points: frozenset[str] = frozenset()  # ids of refused ones whose index cannot be read now
    _by_source: Mapping[str, tuple[Generation, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found: dict[str, list[Generation]] = {}
        for generation in self.generations:
            found.setdefault(generation.source, []).append(generation)
        object.__setattr__(self, "_by_source", {source: tuple(of) for source, of in found.items()})

    @property
    def list_command(self) -> str:
        """The command that lists this store."""
        return "backupd list" if self.store == LOCAL_STORE else f"backupd list --store {self.store}"

    @property
    def how_to_fill(self) -> str:
        """What to do about a store that holds nothing."""
        if self.store == LOCAL_STORE:
            return "run backupd backup first"
        found = "if copies were sent there, check its url and mount (backupd doctor)"
        return f"run backupd replicate --to {self.store} first; {found}"

    def fault(self, generation_id: str) -> Literal["manifest", "access", "archive"]:
        """Return what is wrong with a refused generation."""
        if generation_id in self.unreadable:
            return "access"
        return "archive" if generation_id in self.lost else "manifest"

    def how_to_repair(self, generation_id: str) -> str:
        """Return what to do about a refused generation."""
        at = "" if self.store == LOCAL_STORE else f" at {self.store}"
        if generation_id in self.unreadable:
            return f"check owner and mode of {generation_id}{MANIFEST_SUFFIX}{at}, and its disk"
        if generation_id in self.replaced:
            return (
                f"find out which of the two copies was changed, and who can write{at}; if it is the local one, restore "
                "with an empty backups_dir (BACKUPD_BACKUPS_DIR)"
            )
        if generation_id in self.lost and self.store != LOCAL_STORE:
            return f"find out what removed it{at}; the next replication sends it again if it is still here"
        kind = next((g.kind for g in self.of(source_of(generation_id)) if g.id == generation_id), None) or "database"
        return refused_step(generation_id, self.store, archive_lost=generation_id in self.lost, kind=kind)

    def _how_to_repair_point(self, point_id: str) -> str:
        at = "" if self.store == LOCAL_STORE else f" --store {self.store}"
        if point_id in self.unreadable_points:
            return "check its owner and mode, and its disk; until then nothing is pruned"
        return f"its generations can be restored one by one; backupd remove {point_id}{at} deletes it"

    def refusal(self, generation_id: str) -> BackupdError:
        """Return the error for a refused generation that is wanted."""
        hint = f"choose another generation ({self.list_command}); {self.how_to_repair(generation_id)}"
        kind: type[BackupdError] = ManifestInvalid
        if generation_id in self.unreadable:
            kind = StoreUnusable if self.store == LOCAL_STORE else CopyUnreadable
        elif generation_id in self.replaced:
            kind = GenerationTaken
        elif generation_id in self.lost and self.store != LOCAL_STORE:
            kind = GenerationMissing
        return kind(self.refused[generation_id], hint)

    def require_readable(self, source: str | None = None) -> None:
        """Raise CopyUnreadable (StoreUnusable here) where a manifest of `source` (None: any) cannot be read now."""
        for generation in self.generations:
            if generation.id in self.unreadable and source in (None, generation.source):
                raise self.refusal(generation.id)

    def refusing(self, replaced: Collection[str]) -> "Inventory":
        """Return the inventory with the generations of these ids refused: this store knows them by other digests."""
        why = {
            key: f"{key} at {self.store} is not the copy that this store has made: its archive has another digest"
            for key in replaced
        }
        generations = tuple(replace(g, damaged=True) if g.id in why else g for g in self.generations)
        return replace(self, generations=generations, refused={**self.refused, **why}, replaced=frozenset(why))

    def losing(self, gone: Collection[str]) -> "Inventory":
        """Return the inventory with the generations of these ids refused: they were sent to this replica."""
        why = {key: f"{key} was sent to {self.store}, and is no longer there" for key in sorted(gone)}
        found = (*self.generations, *(_unreadable(key, 0, "unknown") for key in why))
        generations = tuple(sorted(found, key=_by_time, reverse=True))
        return replace(self, generations=generations, refused={**self.refused, **why}, lost=frozenset(why))

    def lost_warning(self) -> str:
        """Return what was sent to this replica and is no longer there; empty for nothing."""
        if not self.lost:
            return ""
        named, more = sorted(self.lost)[-_MAX_NAMED:], len(self.lost) - _MAX_NAMED
        which = f"{', '.join(named)}{f' and {more} more' if more > 0 else ''}"
        return f"no longer at {self.store}, though sent there and not removed by backupd: {which}"

    def problems(self) -> tuple[str, ...]:
        """Return why each refused generation and restore point is refused, and what to do."""
        generations = (f"{why} ({self.how_to_repair(key)})" for key, why in self.refused.items())
        points = (f"{why} ({self._how_to_repair_point(key)})" for key, why in self.refused_points.items())
        return (*generations, *points)

    def digests(self) -> dict[str, str]:
        """Return the digests of archives by id."""
        return {key: manifest.archive.sha256 for key, manifest in self.manifests.items()}

    def checksums(self, without: Collection[str] = ()) -> dict[str, str]:
        """Return the digests of archives by file name, as `SHA256SUMS` lists them, but for some ids."""
        kept = (manifest for key, manifest in self.manifests.items() if key not in without)
        return {archive_name(manifest.id, manifest.kind): manifest.archive.sha256 for manifest in kept}

    def of(self, source: str) -> tuple[Generation, ...]:
        """Return the generations of one source, newest first."""
        return self._by_source.get(source, ())

    def manifests_of(self, source: str) -> list[AnyManifest]:
        """Return the readable manifests of one source, newest first."""
        return [self.manifests[g.id] for g in self.of(source) if g.id in self.manifests]

    def newest_identity(self) -> str | None:
        """Return the identity of the store that made the newest readable generation."""
        return next((self.manifests[g.id].store for g in self.generations if g.id in self.manifests), None)

    def last_verified(self, source: str) -> AnyManifest | None:
        """Return the manifest of the newest generation of `source` that counts."""
        return next((self.manifests[g.id] for g in self.of(source) if self.counts(g)), None)

    def last_database(self, source: str) -> Manifest | None:
        """Return what `last_verified` returns, None where that is a set of files: its name was used for one before."""
        newest = self.last_verified(source)
        return newest if isinstance(newest, Manifest) else None

    def databases(self) -> "Inventory":
        """Return the inventory without sets of files."""
        return self.without(generation.id for generation in self.generations if generation.kind == "files")

    def without(self, ids: Iterable[str]) -> "Inventory":
        """Return the inventory without the generations and points of these ids, and points of which nothing is left."""
        gone = frozenset(ids)
        left = {key: point for key, point in self.points.items() if not point.generations <= gone}
        return replace(
            self,
            points={key: point for key, point in left.items() if key not in gone},
            generations=tuple(g for g in self.generations if g.id not in gone),
            manifests={key: manifest for key, manifest in self.manifests.items() if key not in gone},
        )

    def refusing_oversized(self, directory: Path) -> "Inventory":
        """Refuse databases whose manifest claims more than the whole disk of `directory` holds. Raises OSError.

        Only where a smaller one of the same source counts: else an operator has to know how much space is missing.
        """
        disk_bytes = total_bytes(directory)
        databases = (g for g in self.generations if g.kind == "database" and g.id in self.manifests)
        large = [g for g in databases if g.snapshot_bytes > disk_bytes]
        fit = {g.source for g in self.generations if g not in large and self.counts(g)}
        limit = f"more than the whole disk at {visible_directory(directory)} ({human_bytes(disk_bytes)})"
        told = {
            g.id: f"the manifest of {g.id} claims a database of {human_bytes(g.snapshot_bytes)}, {limit}"
            for g in large
            if g.source in fit
        }
        return replace(
            self,
            generations=tuple(replace(g, damaged=True) if g.id in told else g for g in self.generations),
            manifests={key: manifest for key, manifest in self.manifests.items() if key not in told},
            refused={**self.refused, **told},
        )

    def counts(self, generation: Generation) -> bool:
        """Return whether `generation` is verified, undamaged and not dated in the future."""
        return generation.verified and generation.taken_at <= self.now + CLOCK_TOLERANCE


def take_inventory(
    store: Store, now: datetime, damaged: frozenset[str] = frozenset(), lost: Iterable[str] = ()
) -> Inventory:
    """Read every manifest and every index in `store`; `damaged` and `lost` (without an archive) are ids."""
    generations: list[Generation] = []
    manifests: dict[str, AnyManifest] = {}
    refused: dict[str, str] = {}
    unreadable, vanished = set[str](), list[ListedGeneration]()

    def refuse(stored: ListedGeneration, why: str, verification: Literal["corrupt", "unknown"]) -> None:
        refused[stored.id] = why
        generations.append(_unreadable(stored.id, stored.archive_bytes, verification, stored.kind))

    points = take_points(store)  # before the generations: one that is published meanwhile is complete
    listing = store.list()
    for stored, read in zip(listing, store.manifests([stored.id for stored in listing]), strict=True):
        try:
            manifest = decode_manifest(read(), stored.id)
            _require_kind(manifest, stored)
        except ManifestInvalid as error:
            refuse(stored, error.message, "corrupt")
        except GenerationMissing:
            vanished.append(stored)
        except OSError as error:
            unreadable.add(stored.id)
            refuse(stored, f"the manifest of {stored.id} cannot be read: {error.strerror or error}", "unknown")
        else:
            manifests[stored.id] = manifest
            sound = stored.archive_bytes == manifest.archive.size_bytes and stored.id not in damaged
            generations.append(_generation(manifest, stored.archive_bytes, damaged=not sound))
    still_listed = {stored.id for stored in store.list()} if vanished else set()
    for stored in vanished:
        if stored.id in still_listed:  # else it was removed since the listing
            unreadable.add(stored.id)
            refuse(stored, f"the manifest of {stored.id} is listed but cannot be opened", "unknown")
    gone = frozenset(lost) - {generation.id for generation in generations}
    generations += [_without_archive(key, store) for key in gone]
    refused |= {key: f"{key}: its archive is gone" for key in sorted(gone)}
    generations.sort(key=_by_time, reverse=True)
    return Inventory(
        tuple(generations),
        manifests,
        refused,
        now,
        gone,
        store.name,
        frozenset(unreadable),
        points=points.usable,
        refused_points=points.refused,
        unreadable_points=points.unreadable,
    )


def _require_kind(manifest: AnyManifest, stored: ListedGeneration) -> None:
    """Raise ManifestInvalid where the archive beside a manifest has the name of another kind."""
    if manifest.kind != stored.kind:
        raise ManifestInvalid(
            f"the manifest of {stored.id} is of {archive_name(stored.id, manifest.kind)}, not of {stored.archive_name}",
            "find out who wrote these files",
        )


def _generation(manifest: AnyManifest, archive_bytes: int, *, damaged: bool) -> Generation:
    return Generation(
        id=manifest.id,
        source=manifest.source,
        taken_at=manifest.taken_at,
        archive_bytes=archive_bytes,
        snapshot_bytes=manifest.content_bytes,
        verification=manifest.verdict.level,
        damaged=damaged,
        kind=manifest.kind,
    )


def _without_archive(generation_id: str, store: Store) -> Generation:
    try:
        return _generation(decode_manifest(store.manifest(generation_id), generation_id), 0, damaged=True)
    except (ManifestInvalid, GenerationMissing, OSError):
        return _unreadable(generation_id, 0, "corrupt")


def _unreadable(
    generation_id: str, archive_bytes: int, verification: Literal["corrupt", "unknown"], kind: Kind = "database"
) -> Generation:
    parts = generation_id.split("-")  # such as tasks-20261123-0400-2
    if len(parts[-1]) < len("0400") or len(parts[-2]) != len("20261123"):
        parts.pop()
    source, date, minute = "-".join(parts[:-2]), parts[-2], parts[-1]
    try:
        taken_at = datetime.strptime(f"{date}{minute}", "%Y%m%d%H%M").replace(tzinfo=UTC)
    except ValueError:
        taken_at = datetime.fromtimestamp(0, UTC)
    damaged = verification == "corrupt"
    return Generation(generation_id, source, taken_at, archive_bytes, 0, verification, damaged=damaged, kind=kind)


def _by_time(generation: Generation) -> tuple[datetime, str]:
    return generation.taken_at, generation.id


_MAX_NAMED = 3
_WAY_OUT = "give each app a backups_dir of its own, or its source another name"


def by_database(generations: Iterable[Generation], manifests: Iterable[AnyManifest]) -> list[list[Generation]]:
    """Split the `generations` of one source by database where `manifests` show that several were backed up in turn.

    All of them are in the result, in the order given; those without a manifest are with the first.
    """
    ordered = sorted(manifests, key=lambda manifest: (manifest.taken_at, manifest.id))
    if not _in_turn([manifest.origin.path for manifest in ordered]):
        return [list(generations)]
    paths = {manifest.id: manifest.origin.path for manifest in ordered}
    first = ordered[0].origin.path
    parted: dict[str, list[Generation]] = {}
    for generation in generations:
        parted.setdefault(paths.get(generation.id, first), []).append(generation)
    return list(parted.values())


def shared_source_warning(inventory: Inventory, source: str, path: Path) -> str:
    """Return a warning where another database is backed up in turn with that at `path`, and was the last."""
    own, manifests = recorded_path(path), inventory.manifests_of(source)
    newest = manifests[0].origin.path if manifests else own
    if newest == own or not _taken_in_turn(manifests, own):
        return ""
    return f"{newest} and {own} are backed up in turn as {source} in one directory: {_WAY_OUT}"


def require_same_database(manifest: AnyManifest, inventory: Inventory, path: Path) -> None:
    """Refuse a generation of another database than the one at `path`, where both are backed up in turn.

    Raises OtherDatabase.
    """
    own, manifests = recorded_path(path), inventory.manifests_of(manifest.source)
    mine = next((found.id for found in manifests if found.origin.path == own), "none")
    if manifest.origin.path != own and _taken_in_turn(manifests, own):
        raise OtherDatabase(
            f"{manifest.id} is of {manifest.origin.path}, not of {own}, of which {mine} is the newest",
            f"name it by its id; where two apps share this directory: {_WAY_OUT}",
        )


def recorded_path(path: Path) -> str:
    """Return how a manifest writes the path of the database that `path` leads to; `path` itself on a dead mount."""
    real = os.path.realpath(path) if responds(path) else os.fspath(path)
    return real.encode(errors="backslashreplace").decode()


def _in_turn(paths: Sequence[str]) -> bool:
    """Return whether a path comes back after another."""
    runs = [path for path, _ in groupby(paths)]
    return len(set(runs)) < len(runs)


def _taken_in_turn(newest_first: Sequence[AnyManifest], now: str) -> bool:
    """Return whether a path comes back in the manifests and `now`, the path that comes next."""
    return _in_turn([*(manifest.origin.path for manifest in reversed(newest_first)), now])
