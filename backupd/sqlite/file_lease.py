"""Know that nobody uses a database, and notice at once when somebody wants to: the parent's end of `child.lease`."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from backupd.errors import TargetInUse, TargetRefused, WorkerFailed
from backupd.system.process import process_start_errors

STOPPED_FLAG = "--app-is-stopped"


class Lease:
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
        with process_start_errors():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "backupd.sqlite.worker.file_lease"],
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # the terminal's Ctrl-C is the parent's to handle
            )
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
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None  # noqa: S101 - for the type checker: they are pipes
            pipe.close()
        self._process.wait()

    def asked_for(self, path: Path) -> bool:
        """Tell whether somebody waits to open `path` since the lease was taken."""
        return self.held and str(path) in self._ask("?")["asked_for"]

    def _ask(self, question: str) -> dict[str, Any]:
        stdin, stdout = self._pipes()
        try:
            stdin.write(question.encode() + b"\n")
            stdin.flush()
            answer: dict[str, Any] = json.loads(stdout.readline())
        except (BrokenPipeError, ValueError) as error:
            raise WorkerFailed("the process that watches the database died", "run it again; see dmesg") from error
        return answer

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        assert self._process.stdout is not None  # noqa: S101 - the same
        return self._process.stdin, self._process.stdout

    def _judge(self, answer: dict[str, Any]) -> None:
        if answer["state"] == "used":
            raise TargetInUse(f"{answer['path']} is in use: a process has it open, here or in another container")
        doubt = answer["why"] if answer["state"] == "unknown" else self._remote
        if doubt and not self._stopped:
            raise TargetRefused(
                f"nobody can tell whether {answer['path'] or self._request['paths'][0]} is in use: {doubt}",
                f"run backupd as the owner of the file; or stop the app, and say so with {STOPPED_FLAG}",
            )
