"""An app that exchanges directories and files for links while they are walked: nothing outside is read."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.file_sets import FileSet

ROUNDS = 6
_ATTACKER = """
import os, sys
root, outside = sys.argv[1:]
print("ready", flush=True)
while True:
    for name, target in (("d", outside), ("f", outside + "/secret")):
        os.rename(f"{root}/{name}", f"{root}/{name}.real")
        os.symlink(target, f"{root}/{name}")
        os.unlink(f"{root}/{name}")
        os.rename(f"{root}/{name}.real", f"{root}/{name}")
        os.mkfifo(f"{root}/pipe")
        os.rename(f"{root}/pipe", f"{root}/was-file")
        with open(f"{root}/was-file.new", "w") as stream:
            stream.write("harmless")
        os.rename(f"{root}/was-file.new", f"{root}/was-file")
"""


@contextmanager
def attacker(root: Path, outside: Path) -> Iterator[None]:
    command = [sys.executable, "-c", _ATTACKER, str(root), str(outside)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
            assert process.poll() is None, "it attacked to the end"
        finally:
            process.kill()


@pytest.mark.no_cover
def test_directories_and_files_exchanged_for_links_and_pipes_lead_nowhere(tmp_path: Path) -> None:
    files, outside = FileSet(tmp_path / "app"), tmp_path / "outside"
    outside.mkdir()
    for name in ("secret", *map(str, range(200))):
        (outside / name).write_text("TOP SECRET")
    for number in range(200):
        files.write(f"d/{number}", "harmless")
    files.write("f", "harmless")
    files.write("was-file", "harmless")
    with attacker(files.path, outside):
        for _ in range(ROUNDS):
            report = files.back_up(retention=None)
            assert report.outcome in {"published", "unchanged"}, report
            assert report.generation
            assert set(files.restored(report.generation).values()) <= {b"harmless"}
    assert {files.content(name.removesuffix(".gz")) for name in files.stored()} == {b"harmless"}
