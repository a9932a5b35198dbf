"""The door of a sidecar: its routes, and how a backup stands that was requested there, as JSON and as values.

docs/api.md describes the requests, docs/openapi.json each field.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final, Literal, get_args

from backupd.errors import RemoteBackupFailed
from backupd.model import utc_from_text

BACKUPS: Final = "/api/backups"
RUNS: Final = "/api/runs"
LONGEST_WAIT_S: Final = 60.0
LONGEST_KEY: Final = 128
RunState = Literal["waiting", "running", "ended"]

_NUMBERS: Final = frozenset({"archive_bytes", "snapshot_bytes", "exit_code"})
_LARGEST: Final = (1 << 63) - 1
_SEE_LOG: Final = "see backup.log of that backupd"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSource:
    """How the backup of one source stands; what is not known yet, or does not apply, is None."""

    source: str
    state: RunState = "waiting"
    outcome: str | None = None  # published, unchanged, degraded (published, with warnings) or failed
    generation: str | None = None  # the verified copy, pinned as requested
    verification: str | None = None
    archive_bytes: int | None = None
    archive_sha256: str | None = None
    snapshot_bytes: int | None = None
    snapshot_sha256: str | None = None
    exit_code: int | None = None
    error: str | None = None
    hint: str | None = None
    warnings: tuple[str, ...] = ()
    hold: str | None = None  # why pruning is on hold since this run or before it

    @property
    def succeeded(self) -> bool:
        """Whether it has ended with a verified copy, with or without warnings."""
        return self.state == "ended" and self.outcome not in (None, "failed") and self.generation is not None

    @property
    def failure(self) -> str:
        """Why it has not succeeded, also where the sidecar does not say."""
        state = "it has no verified copy" if self.state == "ended" else f"it has not ended ({self.state})"
        return self.error or state


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRun:
    """A backup that was requested over HTTP."""

    id: str
    requested_at: datetime
    ended_at: datetime | None = None
    label: str = ""
    sources: tuple[RemoteSource, ...] = ()

    @property
    def state(self) -> RunState:
        """`ended` once every source has: archives, manifests and pins are durable then."""
        states = {source.state for source in self.sources}
        if states <= {"ended"}:
            return "ended"
        return "waiting" if states == {"waiting"} else "running"

    @property
    def succeeded(self) -> bool | None:
        """Whether each source has a verified copy; None until all have ended."""
        ended = self.state == "ended"
        return bool(self.sources) and all(source.succeeded for source in self.sources) if ended else None

    @property
    def generations(self) -> tuple[str, ...]:
        """The verified copies that hold the sources."""
        return tuple(source.generation for source in self.sources if source.generation and source.succeeded)

    def require_success(self) -> None:
        """Raise RemoteBackupFailed where a source has no verified copy, or its pruning is on hold."""
        for source in self.sources:
            if not source.succeeded:
                what = f"the backup of {source.source} failed: {source.failure}"
                raise RemoteBackupFailed(what, source.hint or _SEE_LOG)
        for source in self.sources:
            if source.hold:
                raise RemoteBackupFailed(
                    f"{source.source} was backed up as {source.generation}, and its pruning is on hold: {source.hold}",
                    "find out why; backupd prune --unfreeze accepts the database as it is now",
                )


def run_facts(run: RemoteRun) -> dict[str, object]:
    """Return a run as JSON can hold it, times as ISO 8601."""
    return {
        "id": run.id,
        "state": run.state,
        "succeeded": run.succeeded,
        "requested_at": run.requested_at.isoformat(),
        "ended_at": run.ended_at.isoformat() if run.ended_at else None,
        "label": run.label,
        "sources": [asdict(source) for source in run.sources],
    }


def read_run(text: bytes) -> RemoteRun:
    """Return the run in the answer of a sidecar, also of another version: unknown fields are skipped.

    Raises ValueError where it is none.
    """
    try:
        facts: Any = json.loads(text)
        run = RemoteRun(
            id=str(facts["id"]),
            requested_at=utc_from_text(facts["requested_at"]),
            ended_at=utc_from_text(facts["ended_at"]) if facts.get("ended_at") else None,
            label=str(facts.get("label", "")),
            sources=tuple(map(_read_source, facts["sources"])),
        )
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError("it is not a run of backupd") from error
    if not run.sources:
        raise ValueError("it is a run of no source")
    return run


def _read_source(found: Mapping[str, Any]) -> RemoteSource:
    warnings = found.get("warnings", [])
    if not isinstance(warnings, list):
        raise ValueError("its warnings are not a list")  # noqa: TRY004 - as for any other value
    known = {one.name for one in fields(RemoteSource)} - {"warnings"}
    values = {name: value for name, value in found.items() if name in known}
    for name, value in values.items():
        if value is not None and not (_is_count(value) if name in _NUMBERS else isinstance(value, str)):
            raise ValueError(f"{name} is none")
    if values["source"] is None or values["state"] not in get_args(RunState):
        raise ValueError("it has no source, or another state")
    return RemoteSource(**values, warnings=tuple(map(str, warnings)))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST
