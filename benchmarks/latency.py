"""The latency of an app's commits while nothing, the recipe, or backupd runs.

The app is a process of its own that commits every 4 ms in WAL mode and notes how long each commit took.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.backup import command, empty, environment

PERIOD_S = 0.004


def app(database: Path, synchronous: str) -> None:
    """Commit until standard input closes, then print refused commits and latencies in milliseconds as JSON."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=5)
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute("CREATE TABLE IF NOT EXISTS beat(id INTEGER PRIMARY KEY, note TEXT)")
    os.set_blocking(0, False)
    latencies, refused, due = [], 0, time.perf_counter()
    print("ready", flush=True)
    while sys.stdin.buffer.raw.read(1) is None:
        began = time.perf_counter()
        try:
            connection.execute("INSERT INTO beat(note) VALUES (?)", ("x" * 200,))
        except sqlite3.OperationalError:
            refused += 1
        latencies.append((time.perf_counter() - began) * 1000)
        due += PERIOD_S
        time.sleep(max(0.0, due - time.perf_counter()))
        due = max(due, time.perf_counter() - PERIOD_S)
    print(json.dumps({"refused": refused, "ms": latencies}))


def beside(
    database: Path, synchronous: str, work: list[str] | None, environ: dict[str, str], idle_s: float
) -> dict[str, float]:
    """Run the app while `work` runs (`None`: for `idle_s` seconds); returns refused, p50, p99, max and seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.latency", str(database), synchronous],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    began = time.perf_counter()
    if work is None:
        time.sleep(idle_s)
    else:
        subprocess.run(work, env=environ, stdout=subprocess.DEVNULL, check=True)
    took = time.perf_counter() - began
    out, _ = process.communicate("x")
    said = json.loads(out)
    ms = sorted(said["ms"])
    return {
        "refused": said["refused"],
        "p50": ms[len(ms) // 2],
        "p99": ms[len(ms) * 99 // 100],
        "max": ms[-1],
        "seconds": took,
    }


def compare(database: Path, work: Path, synchronous: str, runs: int) -> list[str]:
    """Return rows of a Markdown table for an idle machine and during a backup, runs in turn, medians of each figure."""
    idle, busy = [], []
    for _ in range(runs):
        live = work / "live.db"
        shutil.copy(database, live)
        env = environment(live, empty(work / "backups"))
        busy.append(beside(live, synchronous, command(), env, 0))
        idle.append(beside(live, synchronous, None, env, busy[-1]["seconds"]))
    return [_row(f"idle, synchronous={synchronous}", idle), _row(f"backupd, synchronous={synchronous}", busy)]


def _row(name: str, runs: list[dict[str, float]]) -> str:
    def mid(key: str) -> float:
        return sorted(run[key] for run in runs)[len(runs) // 2]

    refused = sum(int(run["refused"]) for run in runs)
    return f"| {name} | {mid('p50'):.2f} | {mid('p99'):.2f} | {mid('max'):.1f} | {refused} |"


if __name__ == "__main__":
    app(Path(sys.argv[1]), sys.argv[2])
