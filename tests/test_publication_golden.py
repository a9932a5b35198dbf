"""Publication decisions about typical and odd copies, pinned by golden files.

After an intended change, write the golden files again and read the difference, line by line:

    python tests/test_publication_golden.py --write-golden && git diff tests/golden/publication
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from backupd.archive.archive import Packed
from backupd.errors import SourceCorrupt, SourceEncrypted
from backupd.model import ArchiveFacts, Contents, FileState, Manifest, Signature, SnapshotFacts, SourceFacts, Verdict
from backupd.sqlite.inspection import Inspection
from backupd.sqlite.permissions import Permissions
from backupd.sqlite.snapshot import Snapshot
from backupd.sqlite.source import Source
from backupd.tasks.capture import Capture, UnusableSource
from backupd.tasks.publication import PublicationDecision, SourceState, decide_publication
from backupd.tasks.requests import BackupRequest, ShrinkGuard

GOLDEN = Path(__file__).parent / "golden" / "publication"
NOW: Final = datetime(2026, 11, 22, 3, tzinfo=UTC)
STATE = FileState(device=1, inode=2, size_bytes=1 << 20, mtime_ns=3, ctime_ns=4)
REQUEST = BackupRequest("tasks", Path("/data/tasks.db"))
FULL = Verdict("full", ("integrity_check",))
DOUBT = "a virtual table could not be checked"
DOUBTFUL = Verdict("structural", ("integrity_check",), doubt=DOUBT)
OPAQUE = Verdict("opaque", (), doubt="it is encrypted")
CORRUPT = Verdict("corrupt", ("integrity_check",), damage=("row 7 missing from index i", "page 9 is never used"))
ROWS = Contents({"orders": 1000, "users": 20}, "c" * 64, {"orders": "o", "users": "u"})
NO_TABLES = Contents({}, "c" * 64)


def generation(
    taken_at: datetime = NOW - timedelta(days=1), contents: Contents | None = ROWS, **changes: Any
) -> Manifest:
    """Return the manifest of a generation of `tasks`."""
    made = Manifest(
        format=1,
        id=f"tasks-{taken_at:%Y%m%d-%H%M}",
        source="tasks",
        store="0123456789abcdef",
        taken_at=taken_at,
        backupd_version="0.1.0",
        origin=SourceFacts("/data/tasks.db", 0, 0, 0o640, Signature(STATE, None, 5), 0, 0, 0o755),
        snapshot=SnapshotFacts("a" * 64, 1 << 20, 4096, 256, "wal", 0, 0, "3.40.1", "3.54.1", "backup"),
        archive=ArchiveFacts("b" * 64, 1 << 18, 1 << 20, 1),
        contents=contents,
        verdict=FULL,
    )
    return replace(made, **changes)


def capture(
    verdict: Verdict = FULL, contents: Contents | None = ROWS, size_bytes: int = 1 << 20, *, unchanged: bool = False
) -> Capture:
    """Return a copy of `tasks` that was checked."""
    path = Path("/data/tasks.db")
    source = Source(path, 0, 0, 0o640, size_bytes, 0, Signature(STATE, None, 5), 1, Permissions(0, 0, 0o755))
    part = Path("/backups/.backupd/staging/1/copy/snapshot.sqlite3")
    snapshot = Snapshot(
        part,
        size_bytes,
        4096,
        0,
        0,
        "wal",
        "3.40.1",
        "3.54.1",
        "ext4",
        hot_journal=False,
        writers_held_s=0.0,
        since=NOW,
        until=NOW,
    )
    packed = Packed(ArchiveFacts("e" * 64, 1 << 18, 1 << 20, 1), "d" * 64)
    return Capture(source, NOW, snapshot, Inspection(verdict, contents), packed, unchanged)


LAST = generation()
BEFORE_THE_LOSS = generation(NOW - timedelta(days=2))


@dataclass(frozen=True)
class Case:
    """A copy, and what is known of its source."""

    about: str
    capture: Capture | UnusableSource
    previous: Manifest | None = LAST
    reference: Manifest | None = None
    accepted: bool = False
    request: BackupRequest = REQUEST


def shrunken(rows: int = 100) -> Contents:
    return replace(ROWS, tables={"orders": rows, "users": 20})


CASES = {
    "publish": Case("A good copy that lost nothing: it is published, and a hold ends.", capture()),
    "publish-first": Case("The first copy of a source.", capture(), previous=None),
    "unchanged": Case("The copy equals the last generation: nothing new, and a hold ends.", capture(unchanged=True)),
    "quarantine-corrupt": Case(
        "A copy that is corrupt goes into quarantine, and holds the pruning.", capture(CORRUPT, None)
    ),
    "quarantine-corrupt-first": Case("The first copy is corrupt.", capture(CORRUPT, None), previous=None),
    "quarantine-empty": Case("All tables are gone.", capture(contents=NO_TABLES)),
    "publish-empty-allowed": Case(
        "All tables are gone, and that is allowed: the shrink guard still holds the pruning.",
        capture(contents=NO_TABLES),
        request=replace(REQUEST, allow_empty=True),
    ),
    "hold-shrunk-rows": Case(
        "A table lost nine of ten rows: published, and pruning is held.", capture(contents=shrunken())
    ),
    "hold-shrunk-size": Case("The file lost most of its size.", capture(size_bytes=1 << 18)),
    "hold-shrunk-table": Case("A table is gone.", capture(contents=replace(ROWS, tables={"users": 20}))),
    "hold-shrunk-again": Case(
        "The copy after the loss equals the last generation, and is still compared with the one before the loss.",
        capture(contents=shrunken(), unchanged=True),
        previous=generation(contents=shrunken()),
        reference=BEFORE_THE_LOSS,
    ),
    "release-grown-back": Case(
        "The rows are back: a hold ends.",
        capture(),
        previous=generation(contents=shrunken()),
        reference=BEFORE_THE_LOSS,
    ),
    "publish-guard-off": Case(
        "A loss, and the shrink guard is off.",
        capture(contents=shrunken()),
        request=replace(REQUEST, guard=ShrinkGuard(enabled=False)),
    ),
    "doubt-first": Case(
        "The first copy cannot be checked in full: published with a warning.", capture(DOUBTFUL), previous=None
    ),
    "doubt-known": Case(
        "The last copy could not be checked in full either: noted.", capture(DOUBTFUL), generation(verdict=DOUBTFUL)
    ),
    "doubt-new": Case("The last copy could be checked, this one cannot: quarantine.", capture(DOUBTFUL)),
    "doubt-new-accepted": Case(
        "An operator has accepted it: published with a warning.", capture(DOUBTFUL), accepted=True
    ),
    "doubt-now-encrypted": Case(
        "The last copy had a doubt, and could be read; this one is encrypted: quarantine.",
        capture(OPAQUE, None),
        generation(verdict=DOUBTFUL),
    ),
    "doubt-still-encrypted": Case(
        "Encrypted, as the last copy was: noted.", capture(OPAQUE, None), generation(contents=None, verdict=OPAQUE)
    ),
    "doubt-and-shrunk": Case(
        "Noted and shrunken at once.", capture(DOUBTFUL, shrunken()), generation(verdict=DOUBTFUL)
    ),
    "refuse-corrupt": Case(
        "The source is too damaged to be copied.",
        UnusableSource(SourceCorrupt("/data/tasks.db: malformed", "repair it")),
    ),
    "refuse-unreadable": Case(
        "The source cannot be read any more: pruning is held.",
        UnusableSource(SourceEncrypted("/data/tasks.db is not readable", "check it")),
    ),
    "refuse-unreadable-first": Case(
        "The source could never be read: nothing to hold.",
        UnusableSource(SourceEncrypted("/data/tasks.db is not readable", "check it")),
        previous=None,
    ),
    "refuse-still-encrypted": Case(
        "Encrypted, as the last copy was: a change of method is no damage.",
        UnusableSource(SourceEncrypted("/data/tasks.db is encrypted", "check it")),
        generation(contents=None, verdict=OPAQUE),
    ),
}


def decide(case: Case) -> PublicationDecision:
    state = SourceState(
        case.previous, case.reference or case.previous, case.accepted, Path("/backups/.backupd/quarantine/tasks")
    )
    return decide_publication(case.request, case.capture, state, NOW)


def rendered(case: Case, decision: PublicationDecision) -> str:
    return "\n".join((f"# {case.about}", *_lines(decision))) + "\n"


def _lines(decision: PublicationDecision) -> Iterator[str]:
    yield f"action   {decision.action}"
    if decision.hold is not None:
        hold = decision.hold
        kind = f"{hold.kind}, unreadable" if hold.unreadable else hold.kind
        yield f"hold     {kind}, reference {hold.reference}: {hold.reason}"
    yield f"release  {'yes' if decision.release else 'no'}"
    yield from (f"warning  {warning}" for warning in decision.warnings)
    yield from (f"note     {note}" for note in decision.notes)
    yield from (f"damage   {finding}" for finding in decision.damage)
    if decision.error is not None:
        yield f"error    {type(decision.error).__name__}: {decision.error.message}"
        yield f"hint     {decision.error.hint}"


@pytest.mark.parametrize("name", CASES)
def test_decision_matches_golden_file(name: str) -> None:
    decision = decide(CASES[name])
    assert rendered(CASES[name], decision) == (GOLDEN / f"{name}.txt").read_text()
    assert decide(CASES[name]).action == decision.action, "deciding changes nothing"


def test_each_golden_file_has_case() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_held_or_refused_capture_releases_nothing(name: str) -> None:
    decision = decide(CASES[name])
    assert decision.release == (decision.hold is None and decision.error is None)
    assert (decision.error is not None) == (decision.action in {"quarantine", "refuse"})


if __name__ == "__main__" and "--write-golden" in sys.argv:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        (GOLDEN / f"{name}.txt").write_text(rendered(case, decide(case)))
