"""What is synced to disk: the archive, and not the staged copy (docs/adr/0004-what-is-made-durable.md)."""

import subprocess
import sys
from pathlib import Path

from support.command import Backupd


def test_staged_copy_has_no_journal_and_is_never_synced(backupd: Backupd, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    watched = ["strace", "-f", "-y", "-o", trace, "-e", "trace=fsync,fdatasync,openat"]
    subprocess.run(
        [*watched, sys.executable, "-m", "backupd", "backup"],
        env=backupd.environment(),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    calls = [line for line in trace.read_text().splitlines() if "ENOENT" not in line]
    copied = [line for line in calls if "snapshot.sqlite3" in line]
    assert copied
    assert not [line for line in copied if "sync(" in line or "snapshot.sqlite3-journal" in line]
    assert [line for line in calls if "archive.part" in line and "sync(" in line]
