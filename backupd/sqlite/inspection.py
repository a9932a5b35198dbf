"""Checks and queries of a copy, in a child process: a damaged copy may crash the process that reads it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from backupd.errors import DrillFailed, WorkerHung
from backupd.model import Contents, Verdict
from backupd.sqlite.worker.protocol import CopyRequest, IntegrityReply, IntegrityRequest, QueryResult
from backupd.sqlite.worker_process import WorkerProcess
from backupd.system.held_file import HeldFile
from backupd.system.resources import NORMAL, Priority


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result of the checks, and the contents of the copy (`None` when it is corrupt or encrypted)."""

    verdict: Verdict
    contents: Contents | None


@contextmanager
def checking(copy: HeldFile, writer: str, *, priority: Priority = NORMAL) -> Iterator[Callable[[], Inspection]]:
    """Check a copy that no process writes to and whose source SQLite `writer` (`3.40.1`) wrote.

    The check runs in parallel to the block, with `priority`, and is killed at its end. Yields a function that waits for
    the result. Damage is a result, not an error. Raises WorkerFailed when the check itself fails, OSError.
    """
    held = copy.descriptor
    request = IntegrityRequest(path=copy.name, held=held, writer=writer, priority=priority._asdict())
    with WorkerProcess[IntegrityReply]("integrity_check", request, copy.directory.fixed_path, [held]) as worker:
        yield lambda: _inspection(worker.result())


def query_copy(copy: HeldFile, query: str | None, timeout_s: float) -> QueryResult:
    """Query a database, read-only. Raises DrillFailed, also after `timeout_s`, SnapshotFailed if it was replaced."""
    request = CopyRequest(verb="query", path=copy.name, held=copy.descriptor, query=query)
    try:
        directory, held = copy.directory.fixed_path, [copy.descriptor]
        with WorkerProcess[dict[str, Any]]("copy_tasks", request, directory, held) as worker:
            return QueryResult(**worker.result(deadline=time.monotonic() + timeout_s))
    except WorkerHung as error:
        raise DrillFailed(
            f"the query on the restored copy took longer than {timeout_s:.0f} s",
            "simplify drill.query, or raise drill.timeout_s",
        ) from error


def _inspection(reply: IntegrityReply) -> Inspection:
    verdict: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in reply["verdict"].items()
    }
    return Inspection(Verdict(**verdict), Contents(**reply["contents"]) if reply["contents"] else None)
