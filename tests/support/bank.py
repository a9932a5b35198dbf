"""An app beside backupd: a bank in a process of its own that moves money, so that the sum never changes.

Run as `python bank.py DATABASE JOURNAL_MODE PAGE_SIZE [PAUSE_S] [ROWS]`: it makes the database, says `ready`, and then
commits transfers until its standard input closes; it answers each line that it reads with its number of commits.
"""

import random
import select
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

START = 100
# How many accounts disagree with the ledger, in one pass over each: a busy app makes 100,000 transfers.
_WRONG = """
SELECT count(*) FROM account
LEFT JOIN (SELECT payer AS id, sum(amount) AS paid FROM ledger GROUP BY payer) USING (id)
LEFT JOIN (SELECT payee AS id, sum(amount) AS received FROM ledger GROUP BY payee) USING (id)
WHERE balance != ? - coalesce(paid, 0) + coalesce(received, 0)
"""


def make_bank(path: Path, journal_mode: str = "wal", page_size: int = 4096, rows: int = 1000) -> None:
    """Make a database of `rows` accounts with START each, an index, and a ledger of transfers."""
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA page_size={page_size}")
    connection.execute(f"PRAGMA journal_mode={journal_mode}")
    connection.execute("CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT NOT NULL, balance INTEGER NOT NULL)")
    connection.execute("CREATE INDEX account_owner ON account(owner)")
    connection.execute("CREATE TABLE ledger(id INTEGER PRIMARY KEY, payer INTEGER, payee INTEGER, amount INTEGER)")
    connection.executemany(
        "INSERT INTO account(owner, balance) VALUES (?, ?)",
        ((f"owner {number:06} {'x' * 60}", START) for number in range(rows)),
    )
    connection.commit()
    connection.close()


def is_balanced(path: Path, rows: int = 1000) -> bool:
    """Tell whether no money was lost or made in the database at `path`, and all transfers are in the ledger."""
    connection = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    try:
        (total,) = connection.execute("SELECT sum(balance) FROM account").fetchone()
        (wrong,) = connection.execute(_WRONG, (START,)).fetchone()
        (sound,) = connection.execute("PRAGMA integrity_check").fetchone()
        return bool(total == rows * START and wrong == 0 and sound == "ok")
    finally:
        connection.close()


def transfers(path: Path) -> int:
    """Return how many transfers are in the ledger."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM ledger").fetchone()[0])


def spend(path: Path, times: int = 1) -> None:
    """Let the app open its database, transfer nothing so many times, and close it."""
    with closing(sqlite3.connect(path)) as app, app:
        app.executemany("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)", [()] * times)


class Bank:
    """The running app."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._killed = False
        assert self._answer() == "ready"

    def commits(self) -> int:
        """Ask how many transfers were committed so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        return int(self._answer())

    def wait_for_commits(self, count: int, timeout_s: float = 30) -> None:
        """Wait until `count` more transfers were committed."""
        goal, give_up = self.commits() + count, time.monotonic() + timeout_s
        while self.commits() < goal:
            assert time.monotonic() < give_up, "the app stopped committing"

    def kill(self) -> None:
        """Kill -9: no checkpoint, no rollback, side files stay."""
        self._killed = True
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Let the app end by itself; it must not have failed."""
        assert self._process.stdin is not None
        if not self._killed:
            self._process.stdin.close()
            assert self._process.wait(30) == 0, "the app failed beside the backup"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def running_bank(
    path: Path, journal_mode: str = "wal", page_size: int = 4096, pause_s: float = 0.0, rows: int = 1000
) -> Iterator[Bank]:
    """Run the app on a new database at `path` while the block runs."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(path), journal_mode, str(page_size), str(pause_s), str(rows)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            bank = Bank(process)
            yield bank
            bank.stop()
        finally:
            process.kill()


def _work(path: Path, journal_mode: str, page_size: int, pause_s: float, rows: int) -> None:
    if not path.exists():
        make_bank(path, journal_mode, page_size, rows)
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("PRAGMA synchronous=NORMAL")
    print("ready", flush=True)
    commits = 0
    while True:
        if select.select([sys.stdin], [], [], 0)[0]:
            if not sys.stdin.readline():
                break
            print(commits, flush=True)
        payer, payee, amount = random.randint(1, rows), random.randint(1, rows), random.randint(1, 50)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, payer))
        connection.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, payee))
        connection.execute("INSERT INTO ledger(payer, payee, amount) VALUES (?, ?, ?)", (payer, payee, amount))
        connection.execute("COMMIT")
        commits += 1
        if pause_s:
            time.sleep(pause_s)  # the app's own rhythm, not a test that waits
    connection.close()


if __name__ == "__main__":
    _work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
