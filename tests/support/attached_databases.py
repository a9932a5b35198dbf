"""An app that moves money from one database to another one, attached to it, and dies in the commit of that.

Run as `python attached.py MAIN ATTACHED`. Of the transaction half is in MAIN then, and no commit: the super-journal is
there.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import apsw

ACCOUNTS = 1000
_WRITES = 40


def make_accounts(path: Path) -> None:
    """Make a rollback-journal database of accounts with 100 each."""
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER, pad TEXT)")
    with connection:
        connection.executemany(
            "INSERT INTO account VALUES (?, 100, ?)", ((number, "x" * 200) for number in range(ACCOUNTS))
        )
    connection.close()


def balances(path: Path) -> tuple[int, int]:
    """Open a database as its app would, and return the least and the greatest balance: 100 where all is as before."""
    connection = apsw.Connection(str(path))
    (found,) = connection.execute("SELECT min(balance), max(balance) FROM account")
    connection.close()
    return found[0], found[1]


def die_in_a_commit(main: Path, attached: Path, victim: Path) -> Path:
    """Let the app die once it has written a part of `victim`, one of the two; return its super-journal."""
    done = subprocess.run([sys.executable, __file__, main, attached, victim.name], check=False)
    assert done.returncode == -signal.SIGKILL
    (super_journal,) = main.parent.glob(f"{main.name}-mj*")
    return super_journal


class _File(apsw.VFSFile):
    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], vfs: "_Vfs") -> None:
        self._vfs = vfs
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else name
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        """Write, and die at last."""
        super().xWrite(data, offset)
        if self._vfs.is_armed and (self._name or "").endswith(f"/{self._vfs.victim}"):
            self._vfs.writes += 1
            if self._vfs.writes == _WRITES:
                os.kill(os.getpid(), signal.SIGKILL)


class _Vfs(apsw.VFS):
    def __init__(self, victim: str) -> None:
        self.victim, self.is_armed, self.writes = victim, False, 0
        super().__init__("dying", "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _File:  # noqa: N802 - SQLite's name
        """Open a file that counts what is written to it."""
        return _File(name, flags, self)


def _die(main: str, attached: str, victim: str) -> None:
    vfs = _Vfs(victim)
    connection = apsw.Connection(main, vfs="dying")
    connection.execute("ATTACH ? AS other", (attached,))
    connection.execute("PRAGMA cache_size=-20000")
    connection.execute("BEGIN")
    connection.execute("UPDATE account SET balance = balance - 1")
    connection.execute("UPDATE other.account SET balance = balance + 1")
    vfs.is_armed = True
    connection.execute("COMMIT")


if __name__ == "__main__":
    _die(*sys.argv[1:])
