"""Take a consistent copy of a live database into a staging directory."""

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from backupd.errors import SnapshotFailed, WorkerHung
from backupd.model import SnapshotFacts
from backupd.sqlite.file_format import EMPTY_HEADER, HEADER_BYTES, file_has_checksums, parse_header, set_checksums
from backupd.sqlite.source import Source
from backupd.sqlite.worker_process import OnEvent, OnProgress, WorkerProcess

_NAME = "snapshot.sqlite3"
_JOURNAL = "journal"  # not yet by the name that SQLite gives it, since it would remove an empty one
_COMPACTED = "compacted.sqlite3"
_GRACE_S = 3.0  # for the child to say itself that time is up: it knows more


@dataclass(frozen=True, slots=True)
class SnapshotSettings:
    """How patient a copy is (seconds), and what it may do in the odd cases that docs/sources.md lists."""

    method: Literal["backup", "vacuum"] = "backup"
    timeout_s: float = 3600.0
    busy_timeout_s: float = 60.0
    writer_budget_s: float = 2.0
    quiet_wait_s: float = 60.0
    hot_journal: Literal["copy", "fail"] = "copy"
    hot_journal_wait_s: float = 60.0
    network_fs: Literal["refuse", "allow"] = "refuse"
    reserve_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy in staging, what its header says, and what the app may have felt of the copying."""

    path: Path
    size_bytes: int
    page_size: int
    user_version: int
    application_id: int
    journal_mode: Literal["wal", "rollback"]
    sqlite_writer: str
    sqlite_copier: str
    filesystem: str
    hot_journal: bool
    writers_held_s: float
    method: Literal["backup", "vacuum", "file"] = "backup"

    def facts(self, sha256: str) -> SnapshotFacts:
        """Return what the manifest keeps, given the digest of the copy."""
        return SnapshotFacts(
            sha256=sha256,
            size_bytes=self.size_bytes,
            page_size=self.page_size,
            page_count=self.size_bytes // self.page_size,
            journal_mode=self.journal_mode,
            user_version=self.user_version,
            application_id=self.application_id,
            sqlite_writer=self.sqlite_writer,
            sqlite_copier=self.sqlite_copier,
            method=self.method,
        )


def take_snapshot(
    source: Source,
    settings: SnapshotSettings,
    staging: Path,
    on_progress: OnProgress,
    on_event: OnEvent,
    give_up: float | None = None,
) -> Snapshot:
    """Copy `source` into the empty directory `staging`.

    It has time until `give_up` by the monotonic clock, by default `timeout_s` from now. A child that hangs in a system
    call is killed 3 s later. Raises SourceBusy, SourceReplaced (try again), SourceUnusable, NoSpace, SnapshotFailed.
    """
    give_up = time.monotonic() + settings.timeout_s if give_up is None else give_up
    try:
        with WorkerProcess("snapshot", _request(source, settings, give_up, probe=False), staging) as child:
            answer = child.result(on_progress, on_event, give_up + _GRACE_S)
        journal = staging / _JOURNAL
        if answer["hot"]:
            journal.rename(staging / f"{_NAME}-journal")
            _own("recover", staging, give_up + _GRACE_S, path=_NAME)
        else:
            journal.unlink()
    except WorkerHung as hung:
        raise _late(source, settings, hung) from hung
    return _staged(staging / _NAME, answer)


def probe_source(source: Source, settings: SnapshotSettings, directory: Path) -> dict[str, Any]:
    """Open and pin `source` as a backup would, and copy nothing; `directory` is the child's working directory.

    Returns encrypted, journal_mode, writer, copier and filesystem. Raises what `take_snapshot` raises.
    """
    give_up = time.monotonic() + settings.timeout_s
    try:
        with WorkerProcess("snapshot", _request(source, settings, give_up, probe=True), directory) as child:
            return child.result(give_up=give_up + _GRACE_S)
    except WorkerHung as hung:
        raise _late(source, settings, hung) from hung


def compact_snapshot(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot rewritten by VACUUM, beside the old file, which is removed.

    The copy is vacuumed, never the source, and only after it was verified: VACUUM launders corruption. Raises NoSpace,
    and SnapshotFailed when the schema needs functions of the app.
    """
    staging = snapshot.path.parent
    _own("compact", staging, path=snapshot.path.name, target=_COMPACTED)
    path = staging / _COMPACTED
    if file_has_checksums(snapshot.path):
        with path.open("r+b") as stream:
            set_checksums(stream.fileno(), first_only=False)
    snapshot.path.unlink()
    return replace(snapshot, path=path, size_bytes=path.stat().st_size, method="vacuum")


def _request(source: Source, settings: SnapshotSettings, give_up: float, *, probe: bool) -> dict[str, object]:
    return {
        **asdict(settings),
        "give_up": give_up,
        "path": str(source.path),
        "uid": source.uid,
        "gid": source.gid,
        "unmapped": source.unmapped,
        "empty": source.empty,
        "probe": probe,
        "target": _NAME,
        "journal": _JOURNAL,
    }


def _own(verb: str, staging: Path, give_up: float = math.inf, **request: str) -> None:
    with WorkerProcess("maintenance", {"verb": verb, **request}, staging) as child:
        child.result(give_up=give_up)


def _late(source: Source, settings: SnapshotSettings, hung: WorkerHung) -> SnapshotFailed:
    message = f"{source.path} was not copied within {settings.timeout_s:.0f} s: {hung.message}"
    return SnapshotFailed(message, f"{hung.hint}; if they are only slow, raise timeout_s")


def _staged(path: Path, answer: dict[str, Any]) -> Snapshot:
    size_bytes = path.stat().st_size
    with path.open("rb") as stream:
        header = parse_header(stream.read(HEADER_BYTES)) or EMPTY_HEADER
    if answer["encrypted"]:
        header = EMPTY_HEADER._replace(page_size=answer["page_size"])
    if size_bytes % header.page_size:
        raise SnapshotFailed(f"the copy has {size_bytes} bytes, not whole pages of {header.page_size}", "try again")
    return Snapshot(
        path=path,
        size_bytes=size_bytes,
        page_size=header.page_size,
        user_version=header.user_version,
        application_id=header.application_id,
        journal_mode=answer["journal_mode"],
        sqlite_writer=answer["writer"],
        sqlite_copier=answer["copier"],
        filesystem=answer["filesystem"],
        hot_journal=answer["hot"],
        writers_held_s=answer["writers_held_s"],
        method="file" if answer["encrypted"] else "backup",
    )
