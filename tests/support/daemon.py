"""The daemon as a container runs it: a process that is asked over HTTP and told by signals."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.command import Backupd, borrowed_fork_server
from support.fork_server import ForkedRun


def wait_until(holds: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Poll until `holds()` is true, the more rarely the longer it lasts; fails, naming `what`, after `timeout_s`."""
    began = time.monotonic()
    while not holds():
        waited = time.monotonic() - began
        assert waited < timeout_s, f"{what} did not come within {timeout_s:.0f} s"
        time.sleep(min(0.05 + waited / 20, 0.3))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def children_of(process: int) -> list[int]:
    """Return the processes that any thread of this one has started; none once it has ended."""
    found: set[int] = set()
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            found.update(map(int, (thread / "children").read_text().split()))
    return sorted(found)


@dataclass
class Daemon:
    """A running `backupd serve` or `backupd gate`, its port, and the file that its standard output goes to."""

    process: ForkedRun | subprocess.Popen[bytes]
    port: int
    output: Path

    def ask(self, path: str) -> tuple[int, str]:
        """Return status and body of the answer to `GET path`; status 0 where there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def health(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.ask("/health")[1])
        return facts

    def said(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str, timeout_s: float = 60) -> None:
        """Wait until `text` is on standard output."""
        wait_until(lambda: text in self.said(), f"{text!r} on standard output", timeout_s)

    def wait_until_alive(self) -> None:
        wait_until(lambda: self.ask("/livez")[0] == 200, "life")

    def children(self) -> list[int]:
        """Return the processes that do its runs."""
        return children_of(self.process.pid)

    def stop(self, with_signal: int = signal.SIGTERM) -> float:
        """Tell it to stop, wait for its end, and return how many seconds that took."""
        began = time.monotonic()
        self.process.send_signal(with_signal)
        self.process.wait(30)
        return time.monotonic() - began


@contextmanager
def running_daemon(
    backupd: Backupd, *, program: Sequence[str] = (), command: str = "serve", **environ: str
) -> Iterator[Daemon]:
    """Run `backupd serve` on a port of its own while the block runs; keyword arguments are more of the environment.

    It is a fork, which begins without the second of imports of a new process; with `program` Python runs that. With
    `command` it is another command.
    """
    port = free_port()
    environ = backupd.environment(BACKUPD_HTTP__LISTEN=f"127.0.0.1:{port}", **environ)
    output = backupd.cwd / f"daemon-{port}.txt"
    with borrowed_fork_server() as fork_server, output.open("wb") as stream:
        process: ForkedRun | subprocess.Popen[bytes]
        if program:
            words = [sys.executable, *program, command]
            process = subprocess.Popen(words, env=environ, cwd=backupd.cwd, stdout=stream, stderr=stream)
        else:
            process = fork_server.start((command,), environ, backupd.cwd, output=output)
        try:
            yield Daemon(process, port, output)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            finally:
                process.send_signal(signal.SIGKILL)
    assert "Traceback" not in output.read_text(), output.read_text()
