"""What keeps others from a database while it is replaced: a file lease for its app, a lock for other restores."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from backupd.errors import LockHeld, TargetInUse, TargetRefused, WorkerFailed
from backupd.sqlite.worker.protocol import LeaseRequest, LeaseState
from backupd.system.file_lock import directory_lock
from backupd.system.process import close_input, pipe, send, start_module

STOPPED_FLAG = "--app-is-stopped"


class FileLease:
    """The write lease on those files of a database (`paths`) that exist, held by a child process of their owner.

    The kernel may be unable to tell who has the files open: without the right to ask, on a file system without leases,
    or on a `remote` one (the text says why), which other kernels reach too. Then it is not `held`, and `stopped`, by
    which the operator confirms that the app is stopped, has to be true. Entering raises TargetInUse, TargetRefused.
    """

    def __init__(self, paths: Sequence[Path], uid: int | None, gid: int | None, *, remote: str, stopped: bool) -> None:
        self._remote, self._stopped = remote, stopped
        self._request = LeaseRequest(paths=[str(path) for path in paths], uid=uid, gid=gid)
        self.held = False

    def __enter__(self) -> Self:
        self._process = start_module("backupd.sqlite.worker.file_lease", directory="/")
        try:
            state: LeaseState = self._ask(json.dumps(self._request))
            self.held = state["state"] == "held"
            self._require_unused(state)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        close_input(self._process)
        pipe(self._process.stdout).close()
        self._process.wait()

    def open_requested(self, path: Path) -> bool:
        """Return whether a process has tried to open `path` since the lease was taken, and is waiting for it."""
        return self.held and str(path) in self._ask("?")["open_requested"]

    def _ask(self, question: str) -> Any:  # noqa: ANN401 - JSON
        send(self._process, question.encode() + b"\n")
        try:
            return json.loads(pipe(self._process.stdout).readline())
        except ValueError as error:
            raise WorkerFailed(
                "the process that watches the database died", "run the command again; dmesg may say why"
            ) from error

    def _require_unused(self, state: LeaseState) -> None:
        if state["state"] == "used":
            raise TargetInUse(f"{state['path']} is in use: a process has it open, here or in another container")
        reason = state["reason"] if state["state"] == "unknown" else self._remote
        if reason and not self._stopped:
            raise TargetRefused(
                f"cannot determine whether {state['path'] or self._request['paths'][0]} is in use: {reason}",
                f"run backupd as the owner of the file; or stop the app, and confirm that with {STOPPED_FLAG}",
            )


@contextmanager
def restore_lock(database: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Lock the directory of `database` (links resolved) against other restores and their recovery.

    A directory that does not exist, or is on a file system without flock (NFS), is not locked. Raises LockHeld when
    another process still has the lock after `wait_s`.
    """
    directory = Path(os.path.realpath(database)).parent
    with ExitStack() as stack:
        try:
            held = stack.enter_context(directory_lock(directory, timeout_s=wait_s))
        except OSError:  # inspecting the target explains what is wrong with its directory
            held = True
        if not held:
            raise LockHeld(
                f"another backupd is restoring in {directory}", "wait for it to end, then see what it restored"
            )
        yield
