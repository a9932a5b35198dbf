"""Inspect a copy."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backupd.errors import DrillFailed, WorkerHung
from backupd.model import Contents, Verdict
from backupd.sqlite.worker_process import WorkerProcess
from backupd.system.resources import NORMAL, Priority


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the checks said, and what is in the copy (`None` when it is corrupt)."""

    verdict: Verdict
    contents: Contents | None


@contextmanager
def checking(path: Path, writer: str, *, priority: Priority = NORMAL) -> Iterator[Callable[[], Inspection]]:
    """Check the copy at `path`, which nobody writes to and whose source SQLite `writer` (`3.40.1`) wrote.

    The check runs beside the block, steps aside as `priority` says, and ends with the block. What the block is given
    waits for the answer. Damage is an answer, not an error. Raises WorkerFailed when the check itself broke down.
    """
    with WorkerProcess(
        "integrity_check", {"path": path.name, "writer": writer, "priority": priority._asdict()}, path.parent
    ) as child:
        yield lambda: _inspection(child.result())


def _inspection(answer: dict[str, Any]) -> Inspection:
    said = answer["verdict"]
    lists = {key: tuple(said[key]) for key in ("checks", "damage", "notes")}
    contents = Contents(**answer["contents"]) if answer["contents"] else None
    return Inspection(Verdict(**{**said, **lists}), contents)


@dataclass(frozen=True, slots=True)
class QueryResult:
    """`PRAGMA user_version`, and the first value that a query gave, as text; None for no row or no query."""

    user_version: int
    answer: str | None


def query_copy(path: Path, query: str | None, timeout_s: float) -> QueryResult:
    """Ask the database at `path`, read-only. Raises DrillFailed, also after `timeout_s`."""
    try:
        with WorkerProcess("query", {"path": path.name, "query": query}, path.parent) as child:
            return QueryResult(**child.result(give_up=time.monotonic() + timeout_s))
    except WorkerHung as late:
        raise DrillFailed(
            f"the query on the restored copy took longer than {timeout_s:.0f} s",
            "ask for something simpler (drill.query), or raise drill.timeout_s",
        ) from late
