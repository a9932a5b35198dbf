"""Trees of apps as a gate fetches them, with tests that are scripts."""

import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from backupd.gate.app_tests import TestResult, run_tests
from backupd.gate.model import AppTests
from backupd.gate.outcome import last_lines
from backupd.gate.source_tree import write_tree
from backupd.gate.unprivileged import processes_of
from support.forgejo_server import Repository

PLACES = tuple(map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock")))


def tree_of(directory: Path, files: dict[str, str | bytes | None]) -> Path:
    """Return the plain tar of a commit with `files`."""
    repository = Repository.create(directory / "repository")
    commit = repository.commit(files)
    tar = directory / "tree.tar"
    write_tree(io.BytesIO(repository.archive(commit)), tar, "ana/app")
    return tar


def run_script(
    directory: Path,
    script: str,
    user: int,
    *,
    timeout_s: float = 60,
    database: Path | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    command: tuple[str, ...] = ("sh", "tests.sh"),
    more: dict[str, str | bytes | None] | None = None,
) -> TestResult:
    """Run `script` as the tests of an app; what it prints is in `directory`/output."""
    tar = tree_of(directory, {"tests.sh": script, **(more or {})})
    output = directory / "output"
    return run_tests(AppTests(command, timeout_s, user), tar, database, output, cancelled)


def text_of(directory: Path) -> str:
    with suppress(FileNotFoundError):
        return (directory / "output").read_text(errors="replace")
    return ""


def tail_of(directory: Path) -> str:
    """Return the end of what the tests printed, as people see it."""
    return "\n".join(last_lines(text_of(directory)))


def left_of(user: int) -> list[str]:
    """Return processes, files and shared memory of `user`, and its work directories, where every user may write."""
    found = [f"process {pid}" for pid in processes_of(user)]
    for path in (one for place in PLACES if place.is_dir() for one in place.iterdir()):
        with suppress(FileNotFoundError):  # of another process of tests
            if f"backupd-tests-{user}" in path.name or path.lstat().st_uid == user:
                found.append(os.fspath(path))
    for kind in ("shm", "sem", "msg"):
        lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
        creator = lines[0].split().index("cuid")
        found += [f"{kind} {line}" for line in lines[1:] if line.split()[creator] == str(user)]
    return found
