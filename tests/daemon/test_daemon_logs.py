"""What runs write: one summary each, the same lines in `backup.log` and on standard output, for the group to read."""

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from support.command import Backupd, log_lines
from support.daemon import running_daemon
from support.hardened import APP, volumes

OPERATOR, OPERATORS = 4711, 4242


@pytest.mark.no_cover
def test_run_of_each_task_ends_with_one_summary_and_json_output_equals_file(
    backupd: Backupd, backups: Path, tmp_path: Path
) -> None:
    environ = {"BACKUPD_REPLICAS__NAS__URL": f"file:{tmp_path / 'nas'}", "BACKUPD_LOG__FORMAT": "json"}
    with running_daemon(backupd, **environ) as daemon:
        for task in ("prune of tasks: done", "scrub of tasks: done", "drill of tasks: done"):
            daemon.wait_for(task)
    written = (backups / "backup.log").read_text().splitlines()
    assert sorted(daemon.said().splitlines()) == sorted(written)
    assert {next(iter(json.loads(line))) for line in written} == {"@timestamp"}
    assert backupd("restore", "latest", "--yes", **environ).code == 0
    lines = log_lines(backups)
    runs = {
        event: Counter(line["backupd.task"] for line in lines if line["event.action"] == event)
        for event in ("run.started", "run.finished")
    }
    assert runs["run.finished"] == runs["run.started"]
    assert dict(runs["run.finished"]) == dict.fromkeys(("backup", "replicate", "drill", "prune", "scrub", "restore"), 1)
    others = [line["message"] for line in lines if line["event.action"] != "run.finished"]
    assert [text for text in others if ": published" in text or ": done" in text] == []


@pytest.mark.root
def test_group_of_the_operator_reads_the_log_and_its_older_files_but_no_archive() -> None:
    with volumes() as made:
        made.backups.chmod(0o755)  # as Docker makes a volume
        for _ in range(2):
            answer = made.backupd("backup", "--no-pin", PGID=str(OPERATORS), BACKUPD_LOG__MAX_SIZE="1kB")
            assert answer.code == 0, answer
        logs = sorted(made.backups.glob("backup.log*"))
        assert len(logs) > 1
        assert {(path.stat().st_uid, path.stat().st_gid) for path in logs} == {(APP, OPERATORS)}

        def read(group: int, path: Path) -> int:
            user = ("setpriv", f"--reuid={OPERATOR}", f"--regid={group}", "--clear-groups", "cat", str(path))
            return subprocess.run(user, capture_output=True, check=False).returncode

        assert [read(OPERATORS, path) for path in logs] == [0] * len(logs)
        assert [read(OPERATOR, path) for path in logs] == [1] * len(logs)
        (archive,) = made.backups.glob("*.sqlite3.gz")
        assert read(OPERATORS, archive) == 1
