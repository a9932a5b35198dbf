"""The processes that work on a database: those of `sqlite.worker`."""

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeVar

from backupd.system import worker_process

Reply = TypeVar("Reply")

_SHORTEST_LIMIT_S, _SLOWEST_BYTES_S = 600.0, 2 << 20


def deadline_for(size_bytes: int) -> float:
    """Return when work on a file of `size_bytes` that begins now must have ended, by the monotonic clock.

    That is in 10 minutes, and in the time that a slow disk takes, which reads 2 MiB a second.
    """
    return time.monotonic() + _SHORTEST_LIMIT_S + size_bytes / _SLOWEST_BYTES_S


class WorkerProcess(worker_process.WorkerProcess[Reply]):
    """A child process that does `task`, a module of `sqlite.worker`; see `system.worker_process`."""

    def __init__(
        self,
        task: str,
        request: Mapping[str, object],
        directory: Path | str,
        deadline: float,
        files: Collection[int] = (),
    ) -> None:
        super().__init__(f"backupd.sqlite.worker.{task}", request, directory, deadline, files)
