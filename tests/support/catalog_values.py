"""Values and helpers that the tests of the catalog share."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backupd.catalog import open_catalog
from backupd.catalog.catalog import Catalog
from backupd.catalog.database import connect
from backupd.model import (
    ArchiveFacts,
    Contents,
    FileState,
    Manifest,
    Signature,
    SnapshotFacts,
    SourceFacts,
    Verdict,
)
from backupd.report import AnyReport, BackupDetails, RunReport

NOON = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
APP = "app-20261101-0300"
OLDER = "app-20261031-0300"


def at(minutes: int) -> datetime:
    return NOON + timedelta(minutes=minutes)


def manifest(id_: str = APP, sha256: str = "a" * 64) -> Manifest:
    state = FileState(device=1, inode=2, size_bytes=4096, mtime_ns=3, ctime_ns=4)
    return Manifest(
        format=1,
        id=id_,
        source="app",
        store="0123456789abcdef",
        taken_at=NOON,
        backupd_version="0.1.0",
        origin=SourceFacts("/data/app.db", 0, 0, 0o640, Signature(state, None, 5), 0, 0, 0o755),
        snapshot=SnapshotFacts(sha256, 4096, 4096, 1, "wal", 0, 0, "3.40.1", "3.54.1", "backup"),
        archive=ArchiveFacts("b" * 64, 100, 1 << 20, 1),
        contents=Contents({"t": 1}, "c" * 64),
        verdict=Verdict("full", ("integrity_check",)),
    )


def report(**changes: Any) -> AnyReport:
    values = {
        "task": "backup",
        "subject": "app",
        "started_at": NOON,
        "outcome": "published",
        "details": BackupDetails(generation=APP),
    }
    return RunReport(**{**values, **changes})


FOUND = [(manifest(), "local"), (manifest(), "nas"), (manifest(OLDER), "local")]


def fill(catalog: Catalog) -> None:
    catalog.add_generation(manifest(), "local")
    catalog.record_run(report(), NOON)
    catalog.record_run(report(started_at=at(1)), at(1))
    catalog.start_run("drill", "app", at(2))


def names(path: Path) -> set[str]:
    return {entry.name.removeprefix(path.name) for entry in path.parent.iterdir() if entry.is_file()}


def assert_sound(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def leave_wal(path: Path, directory: Path) -> Path:
    """Copy the catalog as a killed writer would leave it: with one more run, which is in its WAL only."""
    directory.mkdir()
    with closing(connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM run").fetchall()
        with open_catalog(path) as catalog:
            catalog.record_run(report(task="in-the-wal"), NOON)
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", directory / f"{path.name}{suffix}")
    return directory / path.name


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Run `script` in another interpreter, which says `ready` when it got that far, then waits for a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            "PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parents[2]}",
            "PATH": "/usr/bin:/bin",
        },
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


_CRASH = """
import hashlib, os, shutil, signal, sqlite3, sys
from itertools import count
from pathlib import Path
from support.catalog_values import manifest
from backupd.catalog import open_catalog
from backupd.catalog.rebuild import rebuild

FILE_EVENTS = {"open", "os.rename", "os.link", "os.remove", "os.chown", "sqlite3.connect"}
base = Path(sys.argv[1])
actions = {"open": open_catalog, "rebuild": lambda path: rebuild(path, [(manifest(), "local")])}

def act(directory, at):
    numbers = count()

    def step(*_):
        if at in (next(numbers), "each"):
            os.kill(os.getpid(), signal.SIGSTOP if at == "each" else signal.SIGKILL)

    def watch(event, arguments):
        if event in FILE_EVENTS and str(directory) in repr(arguments):
            step()

    def connect(*arguments, **options):
        connection = untraced(*arguments, **options)
        connection.set_trace_callback(step)
        return connection

    untraced, sqlite3.connect = sqlite3.connect, connect
    sys.addaudithook(watch)
    actions[sys.argv[2]](directory / "catalog.sqlite3")

def start(at):
    directory = base / f"killed-{at}"
    shutil.copytree(base / "template", directory)
    child = os.fork()
    if not child:
        act(directory, at)
        os._exit(0)
    return directory, child

def state_of(directory):
    files = sorted(path for path in directory.iterdir() if path.is_file() and not path.name.endswith("-shm"))
    return [(path.name, hashlib.sha256(path.read_bytes()).digest()) for path in files]

print("ready", flush=True)
directory, child = start("each")
states = []
while os.WIFSTOPPED(status := os.waitpid(child, os.WUNTRACED)[1]):
    states.append(state_of(directory))
    os.kill(child, signal.SIGCONT)
assert status == 0
assert len(states) > 50
whole = directory.rename(base / f"killed-{len(states)}")
for number, state in enumerate(states):
    if state in states[:number] or state == state_of(whole):
        continue
    _, child = start(number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


def killed_at_every_step(base: Path, action: str) -> list[Path]:
    """Do `action` in copies of `base/template`, each killed before another statement or file operation.

    Of kills that leave the same files, shared memory apart, there is one; the last copy is that of the whole action.
    """
    process = start(_CRASH, base, action)
    process.communicate()
    assert process.returncode == 0
    return sorted(base.glob("killed-*"), key=lambda directory: int(directory.name.split("-")[1]))
