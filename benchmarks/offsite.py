"""Sending to another host beside `sftp put`: `python -m benchmarks.offsite [--mib 256] [--runs 3] [--work DIR]`.

Incompressible bytes to OpenSSH on loopback, and through a round trip of 80 ms. Each figure begins before the login.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from backupd.stores.sftp.auth import Credentials
from backupd.stores.sftp.connection import SftpConnection, Timeouts
from backupd.stores.sftp.host_keys import PinnedKeys
from backupd.stores.sftp.store import SftpStore
from backupd.stores.sftp.upload import RemoteHash, VerifiedParts
from benchmarks.backup import empty
from benchmarks.delayed import delayed
from benchmarks.measure import peak_anonymous_bytes
from benchmarks.openssh import Server, running

ROUND_TRIP_MS = 80
_GENERATION = "tasks-20261123-0400"
_SMALL_MIB = 32
_READ_BACK = "read back"


class _Trust(RemoteHash):
    """Confirms every copy without reading it, as `sftp put` does."""

    def confirms(self, source: BinaryIO, path: str, size_bytes: int, connection: SftpConnection) -> bool:  # noqa: ARG002 - whatever it is
        """Return True."""
        return True


def send(file: Path, target: Path, directory: Path, port: int, *, read_back: bool) -> float:
    """Publish `file` in `target` there; returns the seconds until it was sent, perhaps read back, and named."""
    server = Server(directory, port)
    pins = PinnedKeys.read("there", server.host_key, None)
    credentials = Credentials(server.user, private_key=server.key.read_text())
    began = time.perf_counter()
    with SftpConnection.open("127.0.0.1", port, pins, credentials, Timeouts()) as connection:
        store = SftpStore(
            "there", str(target), lambda: "benchmark", connection, VerifiedParts(None, None if read_back else _Trust())
        )
        store.prepare()
        store.publish(_GENERATION, file, b"{}")
        return time.perf_counter() - began


def sftp_put(file: Path, target: Path, server: Server) -> float:
    """Let sftp(1) send `file`; returns seconds."""
    began = time.perf_counter()
    subprocess.run(server.sftp(), input=f"put {file} {target}/put\n", text=True, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def compare(file: Path, work: Path, server: Server, where: str, runs: int) -> list[str]:
    """Return rows of a Markdown table: `sftp put`, backupd and ratio, in MiB a second."""
    theirs, sent, proven = [], [], []
    for _ in range(runs):  # in turn, so that a slow minute of the machine hits all
        theirs.append(sftp_put(file, empty(work / "there"), server))
        for times, how in ((sent, "sent"), (proven, _READ_BACK)):
            command = _sending(file, empty(work / "there"), server, how)
            times.append(float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    mib = file.stat().st_size / 2**20
    return [_row(f"{where}, sent", mib, theirs, sent), _row(f"{where}, sent and read back", mib, theirs, proven)]


def _row(what: str, mib: float, theirs: Sequence[float], ours: Sequence[float]) -> str:
    their_s, our_s = statistics.median(theirs), statistics.median(ours)
    return f"| {what} | {mib / their_s:.0f} MiB/s | {mib / our_s:.0f} MiB/s | {their_s / our_s:.2f} of that |"


def _sending(file: Path, target: Path, server: Server, how: str = _READ_BACK) -> list[str]:
    parts = map(str, (file, target, server.directory, server.port, how))
    return [sys.executable, "-m", "benchmarks.offsite", "--send", *parts]


def _file(path: Path, mib: int) -> Path:
    with path.open("wb") as stream:
        for _ in range(mib):
            stream.write(os.urandom(1 << 20))
    return path


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="size of what is sent (256)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--work", type=Path, help="directory for the work (the system's temporary one)")
    parser.add_argument("--send", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        file, target, directory, port, how = options.send
        print(send(Path(file), Path(target), Path(directory), int(port), read_back=how == _READ_BACK))
        return
    with tempfile.TemporaryDirectory(dir=options.work) as name, running(Path(name) / "sshd") as near:
        work = Path(name)
        file = _file(work / "file", options.mib)
        print(f"{options.mib} MiB, medians of {options.runs} runs in turn.\n")
        print("| | `sftp put` | backupd | |\n|---|---|---|---|")
        print("\n".join(compare(file, work, near, "loopback", options.runs)), flush=True)
        with delayed(near.port, 0) as port:
            through = [sftp_put(file, empty(work / "there"), replace(near, port=port)) for _ in range(options.runs)]
        proxied = f"`sftp put`: {options.mib / statistics.median(through):.0f} MiB/s"
        with delayed(near.port, ROUND_TRIP_MS) as port:
            far = replace(near, port=port)
            print("\n".join(compare(file, work, far, f"{ROUND_TRIP_MS} ms", options.runs)), flush=True)
            print(f"\nThe proxy alone, without a delay, {proxied}.")
            print("\n| peak of anonymous memory of what sends | loopback | 80 ms |\n|---|---|---|")
            for path in (_file(work / "small", _SMALL_MIB), file):
                peaks = [
                    f"{peak_anonymous_bytes(_sending(path, empty(work / 'there'), server)) / 2**20:.0f} MiB"
                    for server in (near, far)
                ]
                print(f"| {path.stat().st_size >> 20} MiB | {' | '.join(peaks)} |", flush=True)


if __name__ == "__main__":
    main()
