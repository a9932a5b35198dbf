"""A system that refuses threads or processes: the error names the option that helps, without a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backupd.system import process
from support.command import Backupd
from support.daemon import free_port

NO_THREAD = "clone3:error=EPERM"
NO_PROCESS = "vfork,fork,clone,clone3:error=EAGAIN"


def refused(backupd: Backupd, inject: str, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run backupd where the kernel refuses some calls."""
    traced = ["strace", "-f", "-qq", "-o", os.devnull, f"--trace={inject.partition(':')[0]}", f"--inject={inject}"]
    return subprocess.run(
        [*traced, sys.executable, "-m", "backupd", *arguments],
        env=backupd.environment() | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["backup", "verify", "doctor", "serve"])
def test_thread_refused_by_old_seccomp_profile_is_explained(backupd: Backupd, command: str) -> None:
    if command == "verify":
        assert backupd("backup").code == 0
    done = refused(backupd, NO_THREAD, command, BACKUPD_HTTP__LISTEN=f"127.0.0.1:{free_port()}")
    said = done.stdout + done.stderr
    assert done.returncode == (1 if command == "doctor" else 75), said
    assert "the system does not start another process or thread" in said
    for helps in ("clone3", "--security-opt seccomp=unconfined", "--pids-limit", "RLIMIT_NPROC"):
        assert helps in said, said
    assert "Traceback" not in said


def test_process_refused_by_pids_limit_is_explained(backupd: Backupd) -> None:
    done = refused(backupd, NO_PROCESS, "backup")
    assert done.returncode == 75
    assert "another process or thread (Resource temporarily unavailable)" in done.stderr
    assert "--pids-limit" in done.stderr
    assert "seccomp" not in done.stderr
    assert "Traceback" not in done.stderr


def test_reached_pids_limit_of_container_is_reported_with_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pids.current").write_text("63\n")
    (tmp_path / "pids.max").write_text("64\n")
    monkeypatch.setattr(process, "_CGROUPS", (str(tmp_path),))
    assert _hint_of(RuntimeError("can't start new thread")).endswith("64 is enough): 63 of 64 are in use")
    (tmp_path / "pids.max").write_text("max\n")
    assert "in use" not in _hint_of(RuntimeError("can't start new thread"))


def _hint_of(error: Exception) -> str:
    refused = process.start_refusal(error)
    assert refused is not None
    return refused.hint
