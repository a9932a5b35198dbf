"""Buffers that are reused cost the kernel nothing after their first use."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from backupd.system.resources import tune_malloc
if KEEP: tune_malloc()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    buffers = [bytes([n]) * 300_000 for n in range(8)]
use()
before = faults()
for _ in range(50): use()
print(faults() - before)
"""


@pytest.mark.no_cover
def test_freed_memory_is_reused() -> None:
    def faults(keep: bool) -> int:
        program = PROGRAM.replace("KEEP", str(keep))
        return int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)

    assert faults(keep=True) * 10 < faults(keep=False)
