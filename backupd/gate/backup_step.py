"""The verified backup that every deploy begins with, and the copy of it on which the tests rehearse the migrations."""

import gzip
import secrets
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from backupd.errors import BackupdError, Cancelled, GateStepFailed
from backupd.formatting import human_bytes, one_line
from backupd.gate.model import Push, SidecarAccess
from backupd.gate.waiting import IsCancelled, abandonable
from backupd.remote.run import RemoteRun, RemoteSource
from backupd.remote.sidecar import Sidecar
from backupd.system.resources import free_bytes, require_space, reserve_bytes, watching_space

PINNED_FOR: Final = "30d"
_LONGEST_VERSION: Final = 80
_PIECE: Final = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BackupTaken:
    """The verified copies of all sources that were taken for a deploy, and how each went, in a line."""

    generations: tuple[str, ...]
    detail: str


def take_backup(access: SidecarAccess, push: Push, key: str, cancelled: IsCancelled = lambda: False) -> BackupTaken:
    """Request a backup, wait for its end, and require a verified copy of each source; with the same `key` it is one.

    The copies are pinned for 30 days, with the version and the commit in their label. Raises GateStepFailed also where
    the pruning of a source is on hold, since that has just lost much of its data; and Cancelled.
    """
    sidecar = Sidecar(access.url, access.backup_token, access.timeout_s)
    run = _asked(lambda: sidecar.back_up(access.sources, label_of(push), PINNED_FOR, key), cancelled)
    _asked(run.require_success, lambda: False)
    return BackupTaken(tuple(dict.fromkeys(run.generations)), _detail(run))


def label_of(push: Push) -> str:
    """Return the label of the copies: `deploy v1.2 COMMIT`, without the version where that is the commit."""
    version = "" if push.commit.startswith(push.version) else f"{one_line(push.version)[:_LONGEST_VERSION]} "
    return f"deploy {version}{push.commit}"


def fetch_copy(access: SidecarAccess, generation: str, to: Path, cancelled: IsCancelled = lambda: False) -> None:
    """Write the database of `generation` to the new file `to`, from the archive whose SHA-256 is the manifest's.

    Raises GateStepFailed, NoSpace, OSError, Cancelled; then there is no `to`.
    """
    if access.download_token is None:
        raise GateStepFailed("a rehearsal needs a copy of the backup", "set download_token, or rehearse = false")
    sidecar = Sidecar(access.url, access.backup_token, access.timeout_s)
    # A download that was abandoned goes on for a while: it must not find the file of the next one.
    token, packed = access.download_token, to.with_name(f"{to.name}.{secrets.token_hex(4)}.gz")
    limit_bytes = max(0, free_bytes(to.parent) - reserve_bytes(to.parent, None))
    try:
        _asked(lambda: sidecar.download(generation, token, packed, limit_bytes=limit_bytes), cancelled)
        _gunzip(packed, to)
    finally:
        packed.unlink(missing_ok=True)


def _gunzip(packed: Path, to: Path) -> None:
    reserve = reserve_bytes(to.parent, None)
    require_space(to.parent, packed.stat().st_size, reserve, "the copy for the rehearsal")
    advance = watching_space(to.parent, reserve, lambda _done: None)
    with to.open("xb") as stream:
        try:
            with gzip.open(packed) as archive:
                while piece := archive.read(_PIECE):
                    stream.write(piece)
                    advance(0)
        except BaseException as error:
            to.unlink()
            if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
                raise GateStepFailed(
                    f"the copy for the rehearsal does not unpack: {error}", "run backupd verify in the sidecar"
                ) from None
            raise


def _asked(ask: Callable[[], T], cancelled: IsCancelled) -> T:
    """Return what the sidecar answers. Raises GateStepFailed with its own error and hint, Cancelled, OSError."""
    try:
        return abandonable(ask, cancelled)
    except Cancelled:
        raise
    except BackupdError as error:
        raise GateStepFailed(error.message, error.hint) from error


def _detail(run: RemoteRun) -> str:
    return "; ".join(_source_detail(source) for source in run.sources)


def _source_detail(source: RemoteSource) -> str:
    size = human_bytes(source.archive_bytes) if source.archive_bytes else ""
    facts = (one_line(source.generation or ""), one_line(source.outcome or ""), size)
    warnings = "; ".join(one_line(text) for text in source.warnings)
    what = f"{one_line(source.source)}: {', '.join(fact for fact in facts if fact)}"
    return f"{what} ({warnings})" if warnings else what
