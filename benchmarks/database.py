"""A realistic database: users, tasks with words in them, an event log with JSON, and the indexes of such an app.

`python -m benchmarks.database PATH [MIB]` makes one; the same size gives the same bytes.
"""

import itertools
import json
import random
import sqlite3
import sys
from pathlib import Path

_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
_WEIGHTS = [12, 9, 8, 8, 7, 7, 6, 6, 6, 4, 4, 3, 3, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1]
_KINDS = ("created", "assigned", "commented", "closed", "reopened", "moved")
_CLIENTS = ("web/2.14.1 (Linux)", "web/2.14.1 (Windows)", "ios/5.2.0", "android/5.1.3", "api")
_BATCH = 2000
_SCHEMA = """
CREATE TABLE users(id INTEGER PRIMARY KEY, email TEXT UNIQUE, name TEXT, token BLOB, created INTEGER);
CREATE TABLE tasks(
    id TEXT PRIMARY KEY, user_id INTEGER REFERENCES users(id), title TEXT, body TEXT, state TEXT, due INTEGER, meta TEXT
);
CREATE INDEX tasks_user ON tasks(user_id, state);
CREATE INDEX tasks_due ON tasks(due);
CREATE INDEX tasks_title ON tasks(title);
CREATE TABLE events(id INTEGER PRIMARY KEY, task_id TEXT, at INTEGER, kind TEXT, payload TEXT);
CREATE INDEX events_task ON events(task_id);
CREATE INDEX events_at ON events(at, kind);
"""


class _Author:
    """Invents text as uneven as a language: words and phrases whose frequency falls with their rank (Zipf's law)."""

    def __init__(self) -> None:
        self.random = random.Random(7)
        words = ["".join(self.random.choices(_LETTERS, _WEIGHTS, k=self.random.randint(2, 10))) for _ in range(8000)]
        common = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(words))))
        self._phrases = [
            " ".join(self.random.choices(words, cum_weights=common, k=self.random.randint(1, 4))) for _ in range(30000)
        ]
        self._common = list(itertools.accumulate(1 / (rank + 10) for rank in range(len(self._phrases))))
        self._number, self._at = 0, 1_700_000_000

    def text(self, phrases: int) -> str:
        """Return so many phrases."""
        return " ".join(self.random.choices(self._phrases, cum_weights=self._common, k=phrases))

    def write(self, connection: sqlite3.Connection, tasks: int) -> None:
        """Insert `tasks` tasks with their users and events."""
        for _ in range(tasks):
            self._number += 1
            if self._number % 20 == 1:
                self._write_user(connection)
            self._write_task(connection)

    def _write_user(self, connection: sqlite3.Connection) -> None:
        row = (
            self._number,
            f"user{self._number}@example.org",
            self.text(2).title(),
            self.random.randbytes(32),
            self._at,
        )
        connection.execute("INSERT INTO users VALUES (?, ?, ?, ?, ?)", row)

    def _write_task(self, connection: sqlite3.Connection) -> None:
        chance = self.random
        key = f"{chance.getrandbits(128):032x}"
        self._at += chance.randint(1, 90)
        meta = json.dumps({"tags": [self.text(1) for _ in range(3)], "estimate": chance.random()})
        owner = chance.randint(0, self._number // 20) * 20 + 1
        title, body = self.text(chance.randint(1, 4)), self.text(chance.randint(2, 50))
        row = (key, owner, title, body, chance.choice(("open", "done")), self._at + chance.randint(0, 10**7), meta)
        connection.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        for _ in range(chance.randint(1, 5)):
            who = {"id": chance.randint(1, self._number), "client": chance.choice(_CLIENTS)}
            payload = json.dumps({"actor": who, "note": self.text(chance.randint(1, 5)), "version": 3})
            event = (key, self._at + chance.randint(0, 10**6), chance.choice(_KINDS), payload)
            connection.execute("INSERT INTO events VALUES (NULL, ?, ?, ?, ?)", event)


def make_database(path: Path, mib: int) -> None:
    """Make a database of about `mib` MiB at `path`, in WAL mode, closed."""
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=OFF")
    connection.executescript(_SCHEMA)
    author = _Author()
    while connection.execute("PRAGMA page_count").fetchone()[0] * 4096 < mib << 20:
        connection.execute("BEGIN")
        author.write(connection, _BATCH)
        connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


if __name__ == "__main__":
    make_database(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 16)
