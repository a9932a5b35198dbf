"""Manifests of every shape, and a way to seal what no `encode_manifest` would write."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from backupd.archive.manifest import encode_manifest
from backupd.model import (
    ArchiveFacts,
    Contents,
    FileState,
    Manifest,
    Signature,
    SnapshotFacts,
    SourceFacts,
    Verdict,
    generation_id,
)

ID = "tasks-20261123-0400"


def sealed(facts: object) -> bytes:
    """Return `facts` as JSON under a seal that is right, as a forger would."""
    return sealed_text(json.dumps(facts, indent=2).encode().removesuffix(b"\n}") + b",\n")


def sealed_text(body: bytes) -> bytes:
    return body + f'  "manifest_sha256": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def fields_of(manifest: Manifest) -> dict[str, Any]:
    """Return the fields of `manifest` as its file has them, without the seal."""
    fields: dict[str, Any] = json.loads(encode_manifest(manifest))
    del fields["manifest_sha256"]
    return fields


def plain_manifest() -> Manifest:
    """Return the manifest of an ordinary night."""
    state = FileState(device=64769, inode=12, size_bytes=8192, mtime_ns=1, ctime_ns=2)
    return Manifest(
        format=1,
        id=ID,
        source="tasks",
        store="0123456789abcdef",
        taken_at=datetime(2026, 11, 23, 4, 0, 17, 250, tzinfo=UTC),
        backupd_version="0.1.0",
        origin=SourceFacts("/app/data/tasks.db", 1000, 1000, 0o640, Signature(state, None, 3), 1000, 1000, 0o750),
        snapshot=SnapshotFacts("a" * 64, 8192, 4096, 2, "wal", 7, -1, "3.40.1", "3.54.1", "backup"),
        archive=ArchiveFacts("b" * 64, 900, 1 << 20, 1),
        contents=Contents({"task": 12, "search": None}, "c" * 64),
        verdict=Verdict("full", ("integrity_check",), notes=("a note",), duration_s=0.25),
    )


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
COUNT = st.integers(0, 2**63 - 1)
ANY_INT = st.integers(-(2**63), 2**63 - 1)
SHA256 = st.text("0123456789abcdef", min_size=64, max_size=64)
TEXTS = st.lists(TEXT, max_size=4).map(tuple)
FILE_STATE = st.builds(FileState, st.integers(0, 2**64 - 1), COUNT, COUNT, ANY_INT, ANY_INT)
OWNER = st.integers(0, 2**32 - 2)
RIGHTS = st.tuples(OWNER, OWNER, st.integers(0, 0o7777))


@st.composite
def snapshots(draw: st.DrawFn) -> SnapshotFacts:
    page_size, page_count = 512 << draw(st.integers(0, 7)), draw(st.integers(0, 2**32 - 2))
    return SnapshotFacts(
        sha256=draw(SHA256),
        size_bytes=page_size * page_count,
        page_size=page_size,
        page_count=page_count,
        journal_mode=draw(st.sampled_from(["wal", "rollback"])),
        user_version=draw(st.integers(-(2**31), 2**31 - 1)),
        application_id=draw(st.integers(-(2**31), 2**31 - 1)),
        sqlite_writer=draw(TEXT),
        sqlite_copier=draw(TEXT),
        method=draw(st.sampled_from(["backup", "vacuum", "file"])),
    )


@st.composite
def archives(draw: st.DrawFn, snapshot_bytes: int) -> ArchiveFacts:
    """Any archive that could hold a snapshot of so many bytes."""
    member_bytes = draw(st.integers(1, 4 << 20))
    size_bytes = draw(st.integers(-(-snapshot_bytes // 1032), 2**63 - 1))
    return ArchiveFacts(draw(SHA256), size_bytes, member_bytes, -(-snapshot_bytes // member_bytes) or 1)


@st.composite
def contents(draw: st.DrawFn) -> Contents:
    return Contents(
        draw(st.dictionaries(TEXT, st.none() | COUNT, max_size=4)),
        draw(SHA256),
        draw(st.dictionaries(TEXT, TEXT, max_size=4)),
        draw(st.dictionaries(TEXT, TEXT, max_size=4)),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any manifest that backupd could write."""
    source = draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True))
    taken_at = draw(st.datetimes(datetime(1970, 1, 2), datetime(9998, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001
    level = draw(st.sampled_from(["full", "structural", "opaque", "corrupt"]))
    snapshot = draw(snapshots())
    signature = Signature(draw(FILE_STATE), draw(st.none() | FILE_STATE), draw(ANY_INT))
    return Manifest(
        format=1,
        id=generation_id(source, taken_at, draw(st.integers(1, 999))),
        source=source,
        store=draw(st.text("0123456789abcdef", min_size=16, max_size=16)),
        taken_at=taken_at,
        backupd_version=draw(TEXT),
        origin=SourceFacts(draw(TEXT), *draw(RIGHTS), signature, *draw(RIGHTS)),
        snapshot=snapshot,
        archive=draw(archives(snapshot.size_bytes)),
        contents=None if level == "opaque" else draw(contents()),
        verdict=Verdict(
            level=level,
            doubt=draw(TEXT),
            checks=draw(TEXTS),
            damage=draw(TEXTS),
            notes=draw(TEXTS),
            foreign_key_violations=draw(COUNT),
            duration_s=draw(st.floats(0, 1e9)),
        ),
    )
