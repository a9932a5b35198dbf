"""Drills for tests: from the local store, unless another is named, with what a test wants proven of the app."""

import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from backupd.report import DrillDetails, DrillReport, RunReport
from backupd.sqlite.database_files import side_files
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.drill import drill
from backupd.tasks.replica import once
from backupd.tasks.requests import AppCheck, DrillRequest
from support.daemon import free_port

DAY_S = 86400.0
SAMPLE_APP = Path(__file__).parents[2] / "deploy" / "sample-app" / "app.py"
# Runs an app on the database $1 for as long as the mark $4 lies there, as docs/drill.md shows it for a second instance.
WHILE_THERE = """
while :; do
    until [ -f "$4" ] && [ -f "$1" ]; do sleep 0.1; done
    DATABASE=$1 "$2" "$3" & app=$!
    while [ -f "$4" ]; do sleep 0.1; done
    kill $app; wait $app
    [ -f "$4" ] || rm -f "$1" "$1"-*
done
"""


def drilled(context: TaskContext, *, max_age_s: float = DAY_S, **asked: Any) -> RunReport[DrillDetails]:
    """Drill the bank from the local store; keyword arguments are those of `AppCheck`."""
    app = AppCheck(**{"timeout_s": 60.0, **asked}) if asked else None
    order = DrillRequest("tasks", "local", max_age_s, workers=1, reserve_bytes=0, app=app)
    (report,) = drill([order], lambda: nullcontext((context.store, local_inventory(context))), once, context)
    return report


def facts(report: RunReport[DrillDetails]) -> DrillReport:
    """Return what a report says of the drill."""
    return report.details.drill


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def python(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


def sample_database(path: Path, version: int = 1) -> None:
    """Make a database as the sample app would, after its migration to `version`."""
    connection = sqlite3.connect(path)
    connection.executescript(
        "PRAGMA journal_mode = WAL;"
        "CREATE TABLE tasks (id INTEGER PRIMARY KEY, title TEXT NOT NULL, made_at REAL NOT NULL);"
        "CREATE TABLE ledger (task INTEGER NOT NULL REFERENCES tasks, amount INTEGER NOT NULL);"
        "INSERT INTO tasks VALUES (1, 'one', 0); INSERT INTO ledger VALUES (1, 1), (1, -1);"
        f"PRAGMA user_version = {version};"
    )
    connection.close()


@contextmanager
def second_instance(place: Path) -> Iterator[str]:
    """Run the sample app in the block, whenever a drill has put a copy at `place`; yields the URL of its health.

    It may have opened its database again in the moment in which that was taken away: what it left goes with it.
    """
    port = free_port()
    mark = place.with_name(f".{place.name}.backupd-drill")
    command = ["sh", "-c", WHILE_THERE, "instance", str(place), sys.executable, str(SAMPLE_APP), str(mark)]
    environ = {"PORT": str(port), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            yield f"http://127.0.0.1:{port}/health"
        finally:
            subprocess.run(["kill", "-KILL", "--", f"-{process.pid}"], check=False)
    for path in (place, *side_files(place)):
        path.unlink(missing_ok=True)


def has_ended(url: str) -> bool:
    """Return whether no server responds at `url`."""
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except urllib.error.HTTPError:
        return False
    except OSError:
        return True
    return False
