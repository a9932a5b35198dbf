"""Which restore point an operator means, and what is said where none can be used: a pure decision."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from backupd.errors import BackupdError, GenerationMissing, ManifestInvalid, NewestUnusable, UsageError
from backupd.model import (
    ArchiveFacts,
    DirectoryFacts,
    FilesFacts,
    FilesManifest,
    Generation,
    PointPart,
    RestorePoint,
    Verdict,
    generation_id,
)
from backupd.tasks.choice import LATEST
from backupd.tasks.inventory import Inventory
from backupd.tasks.restore.point_choice import choose_point

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
DIGEST = "b" * 64


def manifest(source: str, taken_at: datetime) -> FilesManifest:
    return FilesManifest(
        kind="files",
        format=1,
        id=generation_id(source, taken_at),
        source=source,
        store="0123456789abcdef",
        taken_at=taken_at,
        backupd_version="1.0",
        origin=DirectoryFacts(f"/app/{source}", 1000, 1000, 0o750),
        files=FilesFacts("a" * 64, 100, 2, 1, 0, 8192, 0),
        archive=ArchiveFacts(DIGEST, 90, 1 << 20, 1),
        verdict=Verdict("full", ()),
    )


def point(taken_at: datetime, *sources: str) -> RestorePoint:
    parts = (PointPart(one, "files", generation_id(one, taken_at), DIGEST, taken_at, taken_at) for one in sources)
    return RestorePoint(1, generation_id("point", taken_at), "0123456789abcdef", taken_at, "1.0", tuple(parts))


def inventory(*points: RestorePoint) -> Inventory:
    """Return a store that has these points and the generations of all their parts."""
    found = [manifest(part.source, one.taken_at) for one in points for part in one.parts]
    generations = (Generation(one.id, one.source, one.taken_at, 90, 8192, "full", kind="files") for one in found)
    return Inventory(
        tuple(sorted(generations, key=lambda one: one.taken_at, reverse=True)),
        {one.id: one for one in found},
        {},
        NOON + timedelta(hours=2),
        points={one.id: one for one in points},
    )


OLD, NEW = point(NOON, "notes", "uploads"), point(LATER, "notes", "uploads")
BOTH = inventory(OLD, NEW)
DAMAGED = tuple(replace(one, damaged=one.id == "notes-20261125-1300") for one in BOTH.generations)

OTHER_COPY = replace(NEW.parts[0], archive_sha256="c" * 64)


def chosen(found: Inventory, wanted: str = LATEST, at: datetime | None = None, only: Collection[str] = ()) -> str:
    return choose_point(found, wanted, at, only).point.id


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (replace(BOTH, generations=DAMAGED), "notes-20261125-1300 is damaged"),
        (replace(BOTH, refused={"notes-20261125-1300": "its manifest is cut"}), "its manifest is cut"),
        (replace(BOTH, manifests=inventory(OLD).manifests), "is not there"),
        (replace(BOTH, now=NOON), "it is dated in the future"),
        (
            replace(
                BOTH, points={**BOTH.points, NEW.id: replace(NEW, parts=(replace(NEW.parts[0], archive_sha256="c"),))}
            ),
            "is not the copy that the point names: its archive has another digest",
        ),
    ],
)
def test_newer_point_that_cannot_be_used_is_passed_over_and_named_where_no_other_is_left(
    found: Inventory, why: str
) -> None:
    assert chosen(found) == OLD.id
    alone = replace(found, points={NEW.id: found.points[NEW.id]})
    with pytest.raises(NewestUnusable, match=NEW.id) as caught:
        chosen(alone)
    assert why in caught.value.message


def test_damage_of_a_part_that_is_not_wanted_does_not_count() -> None:
    found = choose_point(replace(BOTH, generations=DAMAGED), LATEST, None, ["uploads"])
    assert (found.point.id, [one.source for one in found.manifests]) == (NEW.id, ["uploads"])


@pytest.mark.parametrize(
    ("found", "wanted", "at", "only", "kind", "words"),
    [
        (inventory(), LATEST, None, (), GenerationMissing, "there is no restore point in store local"),
        (BOTH, LATEST, None, ["mail"], GenerationMissing, "no restore point has a part 'mail'"),
        (
            inventory(point(NOON, "notes"), point(LATER, "uploads")),
            LATEST,
            None,
            ["notes", "uploads"],
            GenerationMissing,
            "no restore point has all of notes, uploads",
        ),
        (BOTH, LATEST, NOON - timedelta(hours=1), (), GenerationMissing, f"the oldest is {OLD.id}"),
        (BOTH, "point-20261125-1400", None, (), GenerationMissing, "there is no restore point point-20261125-1400"),
        (BOTH, NEW.id, None, ["mail"], UsageError, f"{NEW.id} has no part 'mail'"),
        (
            replace(BOTH, points={}, refused_points={NEW.id: "its index is cut"}),
            NEW.id,
            None,
            (),
            ManifestInvalid,
            "its index is cut",
        ),
        (
            replace(BOTH, refused={"notes-20261125-1300": "its manifest is cut"}),
            NEW.id,
            None,
            (),
            ManifestInvalid,
            "its manifest is cut",
        ),
        (
            replace(BOTH, manifests=inventory(OLD).manifests),
            NEW.id,
            None,
            (),
            GenerationMissing,
            f"{NEW.id} cannot be restored as a whole: notes-20261125-1300 is not there",
        ),
    ],
)
def test_point_that_cannot_be_had_is_refused_with_reason_and_hint(
    found: Inventory,
    wanted: str,
    at: datetime | None,
    only: Collection[str],
    kind: type[BackupdError],
    words: str,
) -> None:
    with pytest.raises(kind) as caught:
        chosen(found, wanted, at, only)
    assert words in caught.value.message
    assert caught.value.hint
