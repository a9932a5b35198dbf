"""The cost of the idle daemon: `python -m benchmarks.daemon [--idle 60]`."""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.backup import environment
from benchmarks.database import make_database

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(port: int, path: str) -> bool:
    """Tell whether `path` answers 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def started(environ: dict[str, str], port: int) -> tuple[subprocess.Popen[bytes], float]:
    """Start the daemon; returns it and the seconds until `/livez` answered."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "backupd", "serve"], env=environ, stdout=subprocess.DEVNULL)
    while not answers(port, "/livez"):
        time.sleep(0.01)
    return process, time.perf_counter() - began


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process and its ended children took so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS_A_SECOND


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(lines["VmRSS"].split()[0]) / 1024


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle", type=int, default=120, help="seconds to watch it idle (120)")
    parser.add_argument("--runs", type=int, default=5, help="starts (5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work, port = Path(name), free_port()
        make_database(work / "tasks.db", 16)
        environ = environment(work / "tasks.db", work / "backups", BACKUPD_HTTP__LISTEN=f"127.0.0.1:{port}")
        ready = []
        for number in range(options.runs):
            process, ready_s = started(environ, port)
            ready.append(ready_s)
            if number < options.runs - 1:
                process.terminate()
                process.wait()
        while not answers(port, "/health"):
            time.sleep(0.2)
        time.sleep(15)  # until the first backup, prune and scrub have ended
        before = cpu_s(process.pid)
        time.sleep(options.idle)
        used, memory = cpu_s(process.pid) - before, resident_mib(process.pid)
        began = time.perf_counter()
        process.terminate()
        process.wait()
        print("| the daemon | |\n|---|---|")
        print(f"| until `/livez` answers, median of {options.runs} | {statistics.median(ready):.2f} s |")
        print(f"| memory while idle (RSS) | {memory:.0f} MiB |")
        print(f"| CPU while idle, of one core | {100 * used / options.idle:.2f} % |")
        print(f"| until it has stopped | {time.perf_counter() - began:.2f} s |")


if __name__ == "__main__":
    main()
