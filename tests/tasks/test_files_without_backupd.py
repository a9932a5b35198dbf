"""A set of files restored by the loop in the runbook: exactly as it is printed there, with no program of backupd."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.documents import blocks_run_by
from support.file_sets import FileSet
from support.put_back import facts

APPLETS = ("chmod", "chown", "cp", "grep", "gunzip", "ln", "mkdir", "sha256sum", "touch")
ODD_NAMES = (
    b"new\nline",
    b"tab\tinside",
    b"back\\slash\\0101",
    b"not \xff\xfe UTF-8",
    b"-rf",
    b"--",
    b"ends in newline\n",
    b"ends in blanks  ",
    b"  begins with blanks",
    b"*",
    b"'\"$HOME`id`;&|<>!",
    "año \u2028 😀".encode(),
    b"%s%n",
)


@dataclass(frozen=True)
class Restored:
    """What a shell made of the backup."""

    directory: Path
    out: str


@pytest.fixture
def files(tmp_path: Path) -> FileSet:
    files = FileSet(tmp_path)
    files.write("2026/11/cat.jpg", b"cat" * 50_000)
    files.write("empty", b"")
    (files.path / "random").write_bytes(os.urandom(3_000_000))  # packing gains nothing: it is stored as it is
    for number, name in enumerate(ODD_NAMES):
        path = files.path / os.fsdecode(name)
        path.write_bytes(name * number)
        path.chmod(0o640)
        (files.path / "2026" / os.fsdecode(name)).mkdir()
        (files.path / "2026" / os.fsdecode(name) / os.fsdecode(name)).symlink_to(os.fsdecode(name))
    (files.path / "2026" / "11").chmod(0o2750)
    for path in (*files.path.rglob("*"),):
        os.utime(path, ns=(1_600_000_000_000_000_000,) * 2, follow_symlinks=False)
    return files


@pytest.mark.parametrize("shell", [("dash",), ("bash",), ("busybox", "sh")], ids=" ".join)
@pytest.mark.parametrize("page", ["docs/runbook.md", "docs/runbook.es.md"])
def test_loop_restores_files_of_any_name(files: FileSet, shell: Sequence[str], page: str) -> None:
    report = files.back_up()
    assert report.generation is not None
    restored = run_loop(files, report.generation, shell, page)
    assert restored.out == f"{report.generation}.files.gz: OK\n"
    assert facts(restored.directory) == facts(files.path)


def test_loop_names_a_damaged_content(files: FileSet) -> None:
    report = files.back_up()
    assert report.generation is not None
    (stored,) = (path for path in (files.root / "backups" / "files").rglob("*") if path.stat().st_size > 2_000_000)
    stored.write_bytes(b"\0" + stored.read_bytes()[1:])
    restored = run_loop(files, report.generation, ["dash"], "docs/runbook.md")
    assert f"DAMAGED: {restored.directory}/random\n" in restored.out


def run_loop(files: FileSet, generation: str, shell: Sequence[str], page: str) -> Restored:
    """Run the blocks of the runbook, with the directories of `files` in place of the volumes."""
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    programs = files.root / "programs"
    programs.mkdir()
    if shell[0] == "busybox":
        for name in APPLETS:
            (programs / name).symlink_to(shutil.which("busybox") or "")
    (programs / "docker").write_text(
        f'#!/bin/sh\ncase $5 in *backups) echo "{files.root}/backups" ;; *) echo "{files.root}" ;; esac\n'
    )
    (programs / "docker").chmod(0o755)
    commands = "".join(block.commands for block in blocks_run_by(__file__, page))
    commands = commands.replace("uploads-20261123-0400", generation)
    environ = {"PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*shell, "-eu", "-c", commands], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return Restored(files.root / "restored", done.stdout)
