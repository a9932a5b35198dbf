"""How long a webhook waits for its answer, which comes after the push is durable: `python -m benchmarks.gate`."""

import hashlib
import hmac
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

_SECRET: Final = "0123456789abcdef"
_PUSHES: Final = 50


def main() -> None:
    """Print the median and the longest time of 50 pushes, each of which supersedes the deploy that is under way."""
    with tempfile.TemporaryDirectory() as name, closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        listener.close()
        process = subprocess.Popen([sys.executable, "-m", "backupd", "gate"], env=_environ(Path(name), port))
        try:
            _wait_for(port)
            times_ms = [_push(port, number) * 1000 for number in range(_PUSHES)]
        finally:
            process.terminate()
            process.wait()
    print(f"{_PUSHES} pushes: median {statistics.median(times_ms):.1f} ms, longest {max(times_ms):.1f} ms")


def _environ(directory: Path, port: int) -> dict[str, str]:
    keys = {
        "SECRET": _SECRET,
        "REPOSITORY": "me/tasks",
        "REFS": "refs/heads/main",
        "FORGEJO_URL": "http://127.0.0.1:9",  # nobody answers: the engine tries again and again
        "CAPROVER_URL": "http://127.0.0.1:9",
        "CAPROVER_APP": "tasks",
        "CAPROVER_TOKEN": "token",
    }
    named = {f"BACKUPD_GATE__TASKS__{key}": value for key, value in keys.items()}
    where = {"BACKUPD_GATE_DIR": str(directory), "BACKUPD_HTTP__LISTEN": f"127.0.0.1:{port}"}
    return {"PATH": os.environ["PATH"], **named, **where}


def _wait_for(port: int) -> None:
    for _ in range(600):
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port))):
            return
        time.sleep(0.1)


def _push(port: int, number: int) -> float:
    """Report a push of 20 KiB, as Forgejo does; return the seconds until the answer."""
    commits: list[dict[str, Any]] = [{"id": _commit(number), "message": "x" * 1000}] * 20
    body = json.dumps(
        {
            "ref": "refs/heads/main",
            "before": _commit(number - 1),
            "after": _commit(number),
            "commits": commits,
            "repository": {"full_name": "me/tasks"},
            "pusher": {"login": "ana"},
        }
    ).encode()
    headers = {
        "Content-Type": "application/json",
        "X-Gitea-Event": "push",
        "X-Gitea-Delivery": f"delivery-{number}",
        "X-Gitea-Signature": hmac.new(_SECRET.encode(), body, hashlib.sha256).hexdigest(),
    }
    began = time.perf_counter()
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", "/hooks/tasks", body, headers)
        status = connection.getresponse().status
    took_s = time.perf_counter() - began
    if status != http.client.ACCEPTED:
        raise SystemExit(f"the gate answered {status}")
    return took_s


def _commit(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:40]


if __name__ == "__main__":
    main()
