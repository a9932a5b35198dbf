"""Sending many small files beside `rsync -a` over ssh: `python -m benchmarks.many_files [--files 10000] [--runs 3]`.

Incompressible files of 10 KiB to OpenSSH on loopback, and through a round trip of 80 ms. Each figure begins before the
login. backupd verifies each file here before, and there after it is written, and has the server flush it to its disk;
rsync does nothing of that.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from backupd.stores.local import DirectoryStore
from backupd.stores.sftp.auth import Credentials
from backupd.stores.sftp.connection import SftpConnection, Timeouts
from backupd.stores.sftp.host_keys import PinnedKeys
from backupd.stores.sftp.store import SftpStore
from benchmarks.backup import empty
from benchmarks.delayed import delayed
from benchmarks.measure import peak_anonymous_bytes
from benchmarks.offsite import ROUND_TRIP_MS
from benchmarks.openssh import Server, running

_FILE_BYTES = 10 << 10


def fill(store: DirectoryStore, files: int) -> None:
    """Add contents that do not compress to a new store."""
    store.prepare()
    with store.staging() as staging, store.contents.adding(staging) as writer:
        for _ in range(files):
            data = os.urandom(_FILE_BYTES)
            digest = hashlib.sha256(data).digest()
            writer.holds(digest)
            with writer.part() as part:
                part.write(data)
                part.finish(digest, packed=False)


def transfer(backups: Path, target: Path, directory: Path, port: int, action: str) -> float:
    """Send the contents of a store to `target` there, or read back what is there; returns seconds."""
    server, store = Server(directory, port), DirectoryStore("local", backups)
    pins = PinnedKeys.read("there", server.host_key, None)
    credentials = Credentials(server.user, private_key=server.key.read_text())
    digests = [digest.hex() for digest in store.contents.sizes()]
    began = time.perf_counter()
    with SftpConnection.open("127.0.0.1", port, pins, credentials, Timeouts()) as connection:
        there = SftpStore("there", str(target), lambda: "benchmark", connection)
        if action == "send":
            there.prepare()
            there.contents.publish(digests, store.contents)
        else:
            for digest, opened in there.contents.opened(digests):
                with opened() as stream:
                    assert hashlib.sha256(stream.read()).hexdigest() == digest
    return time.perf_counter() - began


def compare(work: Path, server: Server, where: str, runs: int) -> str:
    """Return a row of a Markdown table."""
    theirs: list[float] = []
    ours: dict[str, list[float]] = {"send": [], "nothing": [], "verify": []}
    for _ in range(runs):  # in turn, so that a slow minute of the machine hits all
        began = time.perf_counter()
        subprocess.run(server.rsync(work / "backups/files", empty(work / "rsync")), check=True)
        theirs.append(time.perf_counter() - began)
        empty(work / "there")
        for what, times in ours.items():
            command = _transferring(work, server, "verify" if what == "verify" else "send")
            times.append(float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    columns = [f"{statistics.median(times):.1f} s" for times in (theirs, *ours.values())]
    ratio = statistics.median(ours["send"]) / statistics.median(theirs)
    return f"| {where} | {' | '.join(columns)} | {ratio:.2f} | {_all(theirs)} / {_all(ours['send'])} |"


def _all(times: Sequence[float]) -> str:
    return " ".join(f"{seconds:.1f}" for seconds in times)


def _transferring(work: Path, server: Server, action: str) -> list[str]:
    parts = map(str, (work / "backups", work / "there", server.directory, server.port, action))
    return [sys.executable, "-m", "benchmarks.many_files", "--transfer", *parts]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="how many (10,000)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--work", type=Path, help="directory for the work (the system's temporary one)")
    parser.add_argument("--transfer", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.transfer:
        backups, target, directory, port, action = options.transfer
        print(transfer(Path(backups), Path(target), Path(directory), int(port), action))
        return
    with tempfile.TemporaryDirectory(dir=options.work) as name, running(Path(name) / "sshd") as near:
        work = Path(name)
        fill(DirectoryStore("local", work / "backups"), options.files)
        print(f"{options.files:,} files of {_FILE_BYTES >> 10} KiB, medians of {options.runs} runs in turn.\n")
        print("| | `rsync -a` | sent | nothing new | read back later | sent / rsync | all runs: rsync / sent |")
        print("|---|---|---|---|---|---|---|")
        print(compare(work, near, "loopback", options.runs), flush=True)
        with delayed(near.port, ROUND_TRIP_MS) as port:
            print(compare(work, replace(near, port=port), f"{ROUND_TRIP_MS} ms", options.runs), flush=True)
        empty(work / "there")
        peak = peak_anonymous_bytes(_transferring(work, near, "send"))
        print(f"\nPeak of anonymous memory of what sends: {peak / 2**20:.0f} MiB.")


if __name__ == "__main__":
    main()
