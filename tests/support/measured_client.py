"""A client of an SFTP server in a process of its own, whose time and memory are measured.

Run as `python measured_client.py`, this file is that process: orders come through standard input, as JSON.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from backupd.errors import BackupdError
from backupd.stores.contract import Replica, find_manifest
from backupd.stores.sftp.connection import Timeouts
from backupd.stores.sftp.handshake import fetch_host_keys
from backupd.tasks.replica import replica_errors
from support.replicas import Target, connected

ID = "tasks-20261123-0400"


@dataclass(frozen=True)
class Measured:
    """How an operation ended: what it said (empty: it succeeded), and what it cost."""

    error: str
    exit_code: int
    seconds: float
    cpu_s: float
    grown_bytes: int  # by which its memory grew at its peak


def _publish(replica: Replica) -> None:
    with TemporaryDirectory() as directory:
        archive = Path(directory) / "archive"
        archive.write_bytes(bytes(range(256)) * 10)
        replica.publish(ID, archive, b"{}\n", replaces=find_manifest(replica, ID))


def _read(replica: Replica) -> None:
    with replica.open(ID) as stream:
        while stream.read(1 << 20):
            pass


def _read_manifests(replica: Replica) -> None:
    for read in replica.manifests([ID] * 3):
        read()


ACTIONS: Mapping[str, Callable[[Replica], object]] = {
    "list": lambda replica: replica.list(),
    "manifests": _read_manifests,
    "open": _read,
    "prepare": lambda replica: replica.prepare(),
    "probe": lambda replica: replica.probe(),
    "publish": _publish,
    "recover": lambda replica: list(replica.recover()),
    "remove": lambda replica: replica.remove(ID),
    "space": lambda replica: replica.free_space(),
    "sums": lambda replica: replica.write_checksums({f"{ID}.sqlite3.gz": "0" * 64}),
}


def measured(target: Target, action: str, timeouts: Timeouts, password: str = "") -> Measured:
    """Do `action`, one of ACTIONS or `trust`, at a server in /backups, in a process of its own; ends it after 60 s."""
    order = {
        "action": action,
        "user": target.user,
        "port": target.port,
        "key": str(target.key),
        "host_key": target.host_key(),
        "timeouts": asdict(timeouts),
        "password": password,
    }
    paths = ":".join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(order),
        env={"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return Measured(**json.loads(done.stdout))


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("the kernel does not say how much memory was used")


def _act(order: Mapping[str, Any]) -> None:
    target: Any = SimpleNamespace(
        user=order["user"], port=order["port"], key=Path(order["key"]), host_key=lambda: order["host_key"]
    )
    timeouts = Timeouts(**order["timeouts"])
    if order["action"] == "trust":
        fetch_host_keys("127.0.0.1", order["port"], timeouts.connect_s)
        return
    with (
        replica_errors("there"),
        connected(target, "/backups", timeouts=timeouts, password=order["password"] or None) as replica,
    ):
        ACTIONS[order["action"]](replica)


def main() -> None:
    order = json.load(sys.stdin)
    before, began, error, exit_code = _peak_bytes(), time.monotonic(), "", 0
    try:
        _act(order)
    except BackupdError as raised:
        error, exit_code = raised.message, raised.exit_code
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = usage.ru_utime + usage.ru_stime
    print(json.dumps(asdict(Measured(error, exit_code, time.monotonic() - began, cpu_s, _peak_bytes() - before))))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
