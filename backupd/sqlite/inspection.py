"""Checks and queries of a copy, in a child process: a damaged copy may crash the process that reads it."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from tempfile import TemporaryFile
from typing import Any, Final

from backupd.errors import DrillFailed, WorkerHung
from backupd.model import Contents, Verdict
from backupd.sqlite.worker.protocol import CopyRequest, IntegrityReply, IntegrityRequest, QueryResult, Thoroughness
from backupd.sqlite.worker_process import WorkerProcess, deadline_for
from backupd.system.held_file import HeldFile
from backupd.system.resources import NORMAL, Priority

_CHUNK_BYTES: Final = 1 << 20
_TOO_LONG = "a stronger check did not end in time: the schema has expressions that take very long to compute"


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result of the checks, and the contents of the copy (`None` when it is corrupt or encrypted)."""

    verdict: Verdict
    contents: Contents | None


@contextmanager
def checking(copy: HeldFile, writer: str, *, priority: Priority = NORMAL) -> Iterator[Callable[[], Inspection]]:
    """Check a copy that no process writes to and whose source SQLite `writer` (`3.40.1`) wrote.

    The check runs in parallel to the block, with `priority`, and is killed at its end. Yields a function that waits for
    the result. Damage is a result, not an error. Where a schema takes the check too long (`deadline_for`), a weaker one
    begins, which runs less of it. Raises WorkerFailed when the check itself fails, WorkerHung when even the weakest
    does not end, OSError.
    """
    held = copy.descriptor

    def begin(thorough: Thoroughness) -> WorkerProcess[IntegrityReply]:
        request = IntegrityRequest(
            path=copy.name, held=held, writer=writer, priority=priority._asdict(), thorough=thorough
        )
        deadline, directory = deadline_for(copy.size_bytes), copy.directory.fixed_path
        return running.enter_context(WorkerProcess("integrity_check", request, directory, deadline, [held]))

    def wait(worker: WorkerProcess[IntegrityReply], *weaker: Thoroughness) -> Inspection:
        try:
            return _inspection(worker.result())
        except WorkerHung:
            running.close()
            if not weaker:
                raise
        found = wait(begin(weaker[0]), *weaker[1:])
        notes = dict.fromkeys((_TOO_LONG, *found.verdict.notes))
        return replace(found, verdict=replace(found.verdict, notes=tuple(notes)))

    with ExitStack() as running:
        first = begin("all")
        yield lambda: wait(first, "structure", "pages")


def query_copy(copy: HeldFile, query: str | None, timeout_s: float) -> QueryResult:
    """Query a database, read-only. Raises DrillFailed, also after `timeout_s`, SnapshotFailed if it was replaced."""
    request = CopyRequest(verb="query", path=copy.name, held=copy.descriptor, query=query)
    try:
        deadline, directory = time.monotonic() + timeout_s, copy.directory.fixed_path
        with WorkerProcess[dict[str, Any]]("copy_tasks", request, directory, deadline, [copy.descriptor]) as worker:
            return QueryResult(**worker.result())
    except WorkerHung as error:
        raise DrillFailed(
            f"the query on the restored copy took longer than {timeout_s:.0f} s",
            "simplify drill.query, or raise drill.timeout_s",
        ) from error


def query_names(copy: HeldFile, query: str, timeout_s: float, files: str) -> Iterator[bytes]:
    """Run the query of the set `files` on a database, read-only, and yield the first column of each row.

    Values that are NULL are left out. Raises DrillFailed, also after `timeout_s`, SnapshotFailed if it was replaced,
    OSError.
    """
    with TemporaryFile(prefix="backupd-", buffering=0) as names:
        request = CopyRequest(
            verb="names", path=copy.name, held=copy.descriptor, query=query, files=files, target_held=names.fileno()
        )
        deadline, directory = time.monotonic() + timeout_s, copy.directory.fixed_path
        held = [copy.descriptor, names.fileno()]
        try:
            with WorkerProcess[None]("copy_tasks", request, directory, deadline, held) as worker:
                worker.result()
        except WorkerHung as error:
            raise DrillFailed(
                f"files.{files}.query took longer than {timeout_s:.0f} s on the copy",
                f"simplify files.{files}.query, or raise its timeout_s",
            ) from error
        names.seek(0)
        rest = b""
        while chunk := names.read(_CHUNK_BYTES):
            *complete, rest = (rest + chunk).split(b"\0")
            yield from complete


def _inspection(reply: IntegrityReply) -> Inspection:
    verdict: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in reply["verdict"].items()
    }
    return Inspection(Verdict(**verdict), Contents(**reply["contents"]) if reply["contents"] else None)
