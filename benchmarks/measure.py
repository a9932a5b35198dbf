"""Run a command and measure it: wall and CPU seconds of the whole process tree, or its peak of memory."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_EVERY_S = 0.02


@dataclass(frozen=True)
class Cost:
    """Seconds."""

    wall_s: float
    cpu_s: float


def run(command: Sequence[str], environ: Mapping[str, str] | None = None) -> Cost:
    """Run `command`, which must succeed, and return the cost of it and all its children."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime)


def peak_anonymous_bytes(command: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Run `command` and return the highest sum of anonymous memory of it and its children, sampled every 20 ms."""
    peak = 0
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, sum(_anonymous_bytes(pid) for pid in _tree(process.pid)))
            time.sleep(_SAMPLE_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return peak


def median(work: Callable[[], Cost], runs: int) -> Cost:
    """Return the medians of several runs."""
    costs = [work() for _ in range(runs)]
    return middle(costs)


def middle(costs: Sequence[Cost]) -> Cost:
    """Return the medians of `costs`, wall and CPU each by itself."""
    return Cost(statistics.median(c.wall_s for c in costs), statistics.median(c.cpu_s for c in costs))


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def _anonymous_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0
