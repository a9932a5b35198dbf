"""`backupd list --points`: the restore points of a store."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from backupd.cli.output import echo, minute_text, print_table, print_warning
from backupd.cli.pin import pin_facts
from backupd.formatting import counted, human_age, human_bytes
from backupd.model import AnyManifest, FilesManifest, Generation, Manifest, Pin, PointPart, RestorePoint
from backupd.tasks.inventory import Inventory
from backupd.tasks.pruning_plan import points_as_generations


@dataclass(frozen=True, slots=True)
class PointRow:
    """What is shown of a restore point: whether it is complete, why it is kept, and where all of its parts are."""

    point: RestorePoint
    generation: Generation  # as which retention sees it
    manifests: Mapping[str, AnyManifest]  # of its parts that can be read, by generation
    kept_for: tuple[str, ...]
    pin: Pin | None
    stores: tuple[str, ...]

    @property
    def content_bytes(self) -> int | None:
        """The size of all its databases and files, as they are restored; None where that of a part is not known."""
        is_known = len(self.manifests) == len(self.point.parts)
        return sum(manifest.content_bytes for manifest in self.manifests.values()) if is_known else None

    @property
    def contents(self) -> str:
        """What is restored of it, as far as it is known: `2 databases (31 MiB), 1204 files (2.1 GiB)`."""
        databases = [one for one in self.manifests.values() if isinstance(one, Manifest)]
        sets = [one for one in self.manifests.values() if isinstance(one, FilesManifest)]
        found = []
        if databases:
            size = human_bytes(sum(one.content_bytes for one in databases))
            found.append(f"{counted(len(databases), 'database')} ({size})")
        if sets:
            size = human_bytes(sum(one.content_bytes for one in sets))
            found.append(f"{counted(sum(one.files.files for one in sets), 'file')} ({size})")
        return ", ".join(found) or "unknown"


def point_rows(
    inventory: Inventory,
    reasons: Mapping[str, tuple[str, ...]],
    pins: Mapping[str, Pin],
    stores: Mapping[str, tuple[str, ...]],
    sources: Collection[str],
) -> list[PointRow]:
    """Return the restore points of a store, newest first; with `sources` those that have a part of one of them."""
    rows = []
    for generation in points_as_generations(inventory):
        point = inventory.points[generation.id]
        if not sources or any(part.source in sources for part in point.parts):
            places = [stores.get(part.generation, (inventory.store,)) for part in point.parts]
            common = tuple(name for name in places[0] if all(name in one for one in places))
            kept_for = reasons.get(point.id, ())
            manifests = {
                part.generation: manifest
                for part in point.parts
                if (manifest := inventory.manifests.get(part.generation)) is not None
            }
            pin, common = pins.get(point.id), common or (inventory.store,)
            rows.append(PointRow(point, generation, manifests, kept_for, pin, common))
    return rows


def point_facts(row: PointRow) -> dict[str, object]:
    """Return what `--json` prints of a restore point."""
    point = row.point
    return {
        "id": point.id,
        "taken_at": point.taken_at,
        "spread_ms": point.spread_ms,
        "parts": [_part_facts(part, row.manifests.get(part.generation)) for part in point.parts],
        "content_bytes": row.content_bytes,
        "archive_bytes": row.generation.archive_bytes,
        "verification": row.generation.state,
        "kept_for": list(row.kept_for),
        **pin_facts(row.pin),
        "stores": list(row.stores),
    }


def _part_facts(part: PointPart, manifest: AnyManifest | None) -> dict[str, object]:
    """Return what `--json` prints of a part; without a `manifest` that can be read its size is not known."""
    return {
        "source": part.source,
        "kind": part.kind,
        "generation": part.generation,
        "content_bytes": None if manifest is None else manifest.content_bytes,
        "files": manifest.files.files if isinstance(manifest, FilesManifest) else None,
    }


def print_points(rows: Sequence[PointRow], inventory: Inventory, place: str, zone: str) -> None:
    """Print a table of restore points, and warn of those that cannot be restored as a whole."""
    if not rows:
        echo(f"no restore points in {place}")
        return
    lines = [
        (
            row.point.id,
            minute_text(row.point.taken_at, zone),
            human_age((inventory.now - row.point.taken_at).total_seconds()),
            f"{row.point.spread_ms} ms apart",
            row.generation.state,
            row.contents,
            ", ".join(part.source for part in row.point.parts),
            ", ".join(row.kept_for) or "removed by the next prune",
            ", ".join(row.stores),
        )
        for row in rows
    ]
    headings = ("point", "taken", "age", "spread", "verified", "contents", "parts", "kept for", "stores")
    print_table(headings, lines, below=("contents", "parts", "kept for", "stores"))
    for row in rows:
        if row.generation.damaged:
            here = {generation.id for generation in inventory.generations if inventory.counts(generation)}
            lacking = [part.generation for part in row.point.parts if part.generation not in here]
            what = f"damaged or missing: {', '.join(lacking)}" if lacking else "a part was replaced by another copy"
            print_warning(f"{row.point.id} cannot be restored as a whole ({what}); restore its other parts by --only")
