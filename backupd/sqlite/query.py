"""Ask a restored copy, in a child process, what an app has made of it."""

import time
from dataclasses import dataclass
from pathlib import Path

from backupd.errors import DrillFailed, WorkerHung
from backupd.sqlite.worker_process import WorkerProcess


@dataclass(frozen=True, slots=True)
class Answered:
    """`PRAGMA user_version`, and the first value that a query gave, as text; None for no row or no query."""

    user_version: int
    answer: str | None


def ask_copy(path: Path, query: str | None, timeout_s: float) -> Answered:
    """Ask the database at `path`, read-only. Raises DrillFailed, also after `timeout_s`."""
    try:
        with WorkerProcess("query", {"path": path.name, "query": query}, path.parent) as child:
            return Answered(**child.result(give_up=time.monotonic() + timeout_s))
    except WorkerHung as late:
        raise DrillFailed(
            f"the query on the restored copy took longer than {timeout_s:.0f} s",
            "ask for something simpler (drill.query), or raise drill.timeout_s",
        ) from late
