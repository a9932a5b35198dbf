"""The machinery of the tests: a fork of a fork server is heard of, however slow the test is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from support.command import Backupd
from support.daemon import children_of, wait_until
from support.fork_server import ForkServer


class AwaitedPipe:
    """The standard input of a fork server, which returns from a request only after the run has ended."""

    def __init__(self, pipe: IO[bytes], server: int, output: Path) -> None:
        self._pipe, self._server, self._output = pipe, server, output

    def write(self, request: bytes) -> None:
        self._pipe.write(request)
        wait_until(lambda: self._output.exists() and self._output.read_text(), "the output")
        wait_until(lambda: not children_of(self._server), "the end of the run")

    def close(self) -> None:
        self._pipe.close()


@contextmanager
def slow_to_listen(scratch: Path) -> Iterator[ForkServer]:
    with ForkServer(scratch, measured=False) as server:
        process = server._process
        assert process.stdin is not None
        process.stdin = AwaitedPipe(process.stdin, process.pid, scratch / "out")  # type: ignore[assignment] - enough
        yield server


def test_run_that_ended_before_it_was_listened_to_has_its_end_reported(backupd: Backupd, tmp_path: Path) -> None:
    with slow_to_listen(tmp_path / "scratch") as server:
        run = server.start(("--version",), backupd.environment(), tmp_path)
        assert run.wait(10) == 0
        assert server.is_free()
