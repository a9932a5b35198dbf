"""A small app with its data in SQLite: the example for deploying backupd, also in the end-to-end tests.

GET /health answers 200 while the database can be read; POST /tasks adds a task. Each task comes with an entry of +1 and
one of -1 in the ledger, in one transaction: the sum is zero. WRITE_EVERY_MS makes it add tasks.
"""

import json
import os
import signal
import sqlite3
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATABASE = os.environ.get("DATABASE", "/app/data/tasks.db")
PORT = int(os.environ.get("PORT", "8000"))
WRITE_EVERY_MS = int(os.environ.get("WRITE_EVERY_MS") or 0)
STARTED_AT = int(time.time() * 1000)
SCHEMA_VERSION = 1


def connect() -> sqlite3.Connection:
    """Open the database; a connection belongs to the thread that opened it."""
    connection = sqlite3.connect(DATABASE, timeout=10, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    return connection


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date."""
    connection.executescript(f"""
        BEGIN IMMEDIATE;
        CREATE TABLE IF NOT EXISTS tasks (id INTEGER PRIMARY KEY, title TEXT NOT NULL, made_at REAL NOT NULL);
        CREATE TABLE IF NOT EXISTS ledger (task INTEGER NOT NULL REFERENCES tasks, amount INTEGER NOT NULL);
        PRAGMA user_version = {SCHEMA_VERSION};
        COMMIT;
    """)


def add_task(connection: sqlite3.Connection, title: str) -> int:
    """Add a task and its two entries, in one transaction; return its id."""
    connection.execute("BEGIN IMMEDIATE")
    task = connection.execute("INSERT INTO tasks (title, made_at) VALUES (?, ?)", (title, time.time())).lastrowid
    connection.executemany("INSERT INTO ledger VALUES (?, ?)", [(task, 1), (task, -1)])
    connection.execute("COMMIT")
    return task


def health(connection: sqlite3.Connection) -> dict[str, int]:
    """Return what /health shows."""
    tasks, balance = connection.execute(
        "SELECT (SELECT count(*) FROM tasks), (SELECT coalesce(sum(amount), 0) FROM ledger)"
    ).fetchone()
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    migrated = int(version == SCHEMA_VERSION)
    return {"tasks": tasks, "balance": balance, "migrations_ok": migrated, "app_started_at": STARTED_AT}


class Handler(BaseHTTPRequestHandler):
    """One request, one connection."""

    def do_GET(self) -> None:
        """Answer /health."""
        if self.path != "/health":
            self.answer(404, {"error": "try /health"})
            return
        try:
            with closing(connect()) as connection:
                facts = health(connection)
        except sqlite3.Error as error:
            self.answer(503, {"error": str(error)})
        else:
            self.answer(200 if facts["migrations_ok"] and facts["balance"] == 0 else 503, facts)

    def do_POST(self) -> None:
        """Add the task that the body names."""
        if self.path != "/tasks":
            self.answer(404, {"error": "try /tasks"})
            return
        title = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        with closing(connect()) as connection:
            self.answer(201, {"id": add_task(connection, title or "untitled")})

    def answer(self, status: int, facts: dict[str, object]) -> None:
        """Send `facts` as JSON."""
        body = json.dumps(facts).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Keep quiet: a health check every few seconds is no news."""


def write_for_ever() -> None:
    """Add a task every now and then."""
    connection = connect()
    while True:
        add_task(connection, "written by itself")
        time.sleep(WRITE_EVERY_MS / 1000)


def main() -> None:
    """Serve until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    connection = connect()  # open for as long as the app runs: its -wal and -shm stay
    migrate(connection)
    if WRITE_EVERY_MS:
        threading.Thread(target=write_for_ever, daemon=True).start()
    print(f"sample app on port {PORT}, database {DATABASE}", flush=True)
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()


if __name__ == "__main__":
    main()
