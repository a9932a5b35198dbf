"""Locks."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from backupd.errors import LockHeld, TargetInUse, TargetRefused, WorkerFailed
from backupd.system.file_lock import directory_lock
from backupd.system.process import close_input, pipe, send, start_module

STOPPED_FLAG = "--app-is-stopped"


class FileLease:
    """The write lease on the files of a database that are there (`paths`), held by a child that is their owner.

    Where the kernel cannot tell who uses them (no right to ask, a file system without leases, `remote`: one that others
    reach past this kernel), it is not `held`, and `stopped` is the operator's word that nobody does. Entering raises
    TargetInUse, TargetRefused.
    """

    def __init__(self, paths: Sequence[Path], uid: int | None, gid: int | None, *, remote: str, stopped: bool) -> None:
        self._remote = remote
        self._request: dict[str, Any] = {"paths": [str(path) for path in paths], "uid": uid, "gid": gid}
        self._stopped = stopped
        self.held = False

    def __enter__(self) -> Self:
        self._process = start_module("backupd.sqlite.worker.file_lease", directory="/")
        try:
            answer = self._ask(json.dumps(self._request))
            self.held = answer["state"] == "held"
            self._judge(answer)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close_input(self._process)
        pipe(self._process.stdout).close()
        self._process.wait()

    def open_requested(self, path: Path) -> bool:
        """Tell whether somebody waits to open `path` since the lease was taken."""
        return self.held and str(path) in self._ask("?")["open_requested"]

    def _ask(self, question: str) -> dict[str, Any]:
        send(self._process, question.encode() + b"\n")
        try:
            answer: dict[str, Any] = json.loads(pipe(self._process.stdout).readline())
        except ValueError as error:
            raise WorkerFailed("the process that watches the database died", "run it again; see dmesg") from error
        return answer

    def _judge(self, answer: dict[str, Any]) -> None:
        if answer["state"] == "used":
            raise TargetInUse(f"{answer['path']} is in use: a process has it open, here or in another container")
        doubt = answer["why"] if answer["state"] == "unknown" else self._remote
        if doubt and not self._stopped:
            raise TargetRefused(
                f"nobody can tell whether {answer['path'] or self._request['paths'][0]} is in use: {doubt}",
                f"run backupd as the owner of the file; or stop the app, and say so with {STOPPED_FLAG}",
            )


@contextmanager
def restore_lock(database: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Let nobody else put a database in place, or heal that, in the directory of what `database` leads to.

    The kernel's lock on the directory itself leaves nothing behind, and ends with its process. Where there is none (no
    such directory, NFS), nobody is kept apart. Raises LockHeld when another one still has it after `wait_s`.
    """
    directory = Path(os.path.realpath(database)).parent
    with ExitStack() as stack:
        try:
            held = stack.enter_context(directory_lock(directory, timeout_s=wait_s))
        except OSError:
            held = True  # there is no such lock; whoever reads the directory reports what is wrong with it
        if not held:
            raise LockHeld(
                f"another backupd is restoring in {directory}", "wait for it to end, and look at what it did"
            )
        yield
