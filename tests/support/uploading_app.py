"""An app that writes a file and then its row, and deletes a row and then its file, every few milliseconds.

`python -m support.uploading_app ROOT RUNS [LIMIT]` backs up its files and copies its database again and again, as a run
does that has both, with LIMIT open files, and prints for each run how many rows there were, how many of them lack
their file in the copy, and how many the report says may lack it.
"""

import json
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from backupd.report import BackupDetails
from backupd.tasks.context import local_inventory
from backupd.tasks.files.capture import holding_set
from support.file_sets import FileSet

FILES = 200
_APP = f"""
import os, random, sqlite3, sys, time
root = sys.argv[1]
database = sqlite3.connect(root + "/app.db", isolation_level=None)
database.execute("PRAGMA journal_mode = wal")
database.execute("CREATE TABLE uploads(path TEXT)")
number, live = 0, []
while True:
    path = f"{{number % 7}}/{{number}}"
    os.makedirs(f"{{root}}/uploads/{{number % 7}}", exist_ok=True)
    with open(f"{{root}}/uploads/{{path}}", "w") as stream:
        stream.write(path * 50)
    database.execute("INSERT INTO uploads VALUES (?)", (path,))
    live.append(path)
    if number >= {FILES}:
        old = live.pop(random.randrange(len(live)))
        database.execute("DELETE FROM uploads WHERE path = ?", (old,))
        os.unlink(f"{{root}}/uploads/{{old}}")
        time.sleep(0.004)
    elif number == {FILES} - 1:
        print("ready", flush=True)
    number += 1
"""


@contextmanager
def uploading_app(root: Path) -> Iterator[None]:
    """Let the app run in `root` during the block."""
    command = [sys.executable, "-c", _APP, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            process.kill()


def copy_database(root: Path) -> list[str]:
    """Copy the database of the app, and return the paths in it."""
    source = sqlite3.connect(f"file:{root}/app.db?mode=ro", uri=True)
    with closing(source), closing(sqlite3.connect(":memory:")) as copy:
        source.backup(copy)
        return [path for (path,) in copy.execute("SELECT path FROM uploads")]


def back_up_both(files: FileSet) -> tuple[int, int, int]:
    """Copy files and database as of one time; return rows, losses, and how many the capture says may lack."""
    context = files.context
    listed = set[str]()
    with (
        context.run("backup", "uploads", BackupDetails()) as run,
        context.exclusive_lock("backup"),
        context.store.staging() as staging,
        holding_set(files.request, local_inventory(context), staging, context) as held,
    ):
        held.hold(run)
        rows = copy_database(files.root)
        held.rescan(run)
        capture = held.capture(None, run, lambda path: listed.add(path.decode()))
    assert run.report.error is None, run.report
    return len(rows), len(set(rows) - listed), capture.not_held


def main(root: Path, runs: int, limit: int | None) -> None:
    """Back up again and again, and print what was found."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    files = FileSet.__new__(FileSet)
    files.root = root
    files.set_up()
    print(json.dumps([back_up_both(files) for _ in range(runs)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
