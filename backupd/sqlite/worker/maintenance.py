"""What is done to our own copies alone: roll back a copied journal, compact, set the journal mode.

Run as `python -m backupd.sqlite.worker.maintenance`.
"""

from typing import Any

import apsw

from backupd.errors import BackupdError, NoSpace, SnapshotFailed, WorkerFailed
from backupd.sqlite.worker.connection import result_code
from backupd.sqlite.worker.integrity_check import open_immutable
from backupd.sqlite.worker.protocol import ParentPipe, serve


def work(request: dict[str, Any], _parent: ParentPipe) -> dict[str, Any]:
    """Do `request["verb"]` to the copy at `request["path"]`."""
    try:
        {"recover": recover, "compact": compact, "journal": set_journal_mode}[request["verb"]](request)
    except apsw.Error as error:
        raise _explain(error, request["verb"]) from error
    return {}


def recover(request: dict[str, Any]) -> None:
    """Open the copy with its journal, which rolls it back, and leave no journal."""
    connection = apsw.Connection(request["path"], flags=apsw.SQLITE_OPEN_READWRITE)
    connection.execute("PRAGMA user_version").fetchall()
    connection.close()


def compact(request: dict[str, Any]) -> None:
    """`VACUUM INTO` a new file, which SQLite makes durable itself."""
    connection = open_immutable(request["path"])
    connection.execute("VACUUM INTO ?", (request["target"],))
    connection.close()


def set_journal_mode(request: dict[str, Any]) -> None:
    """Let the file remember the journal mode that its app uses, and leave no side file."""
    connection = apsw.Connection(request["path"], flags=apsw.SQLITE_OPEN_READWRITE)
    connection.execute("PRAGMA writable_schema=ON")  # read what can be read of it
    connection.execute(f"PRAGMA journal_mode={'WAL' if request['mode'] == 'wal' else 'DELETE'}").fetchall()
    connection.close()


def _explain(error: apsw.Error, verb: str) -> BackupdError:
    if isinstance(error, apsw.FullError):
        return NoSpace(f"no room to {verb} the copy", "free space, or move backups_dir")
    if isinstance(error, apsw.SQLError | apsw.CorruptError) and verb == "compact":
        return SnapshotFailed(
            f"VACUUM needs to read the whole schema, with the functions and collations of the app: {error}",
            'use method = "backup"',
        )
    return WorkerFailed(f"could not {verb} the copy: {error} (SQLite code {result_code(error)})", "see the log")


if __name__ == "__main__":
    serve(work)
