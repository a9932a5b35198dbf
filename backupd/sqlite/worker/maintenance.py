"""Operations on copies: roll back a copied journal, compact, set the journal mode.

Run as `python -m backupd.sqlite.worker.maintenance`.
"""

import apsw

from backupd.errors import BackupdError, NoSpace, SnapshotFailed, WorkerFailed
from backupd.sqlite.worker.connection import open_immutable, result_code
from backupd.sqlite.worker.protocol import MaintenanceRequest, ParentPipe, serve


def maintain(request: MaintenanceRequest, _parent: ParentPipe) -> None:
    """Do `request["verb"]` to the copy at `request["path"]`."""
    try:
        {"recover": recover, "compact": compact, "journal": set_journal_mode}[request["verb"]](request)
    except apsw.Error as error:
        raise _explain(error, request["verb"]) from error


def recover(request: MaintenanceRequest) -> None:
    """Roll the copy back with its journal, which SQLite then removes."""
    connection = apsw.Connection(request["path"], flags=apsw.SQLITE_OPEN_READWRITE)
    connection.execute("PRAGMA user_version").fetchall()
    connection.close()


def compact(request: MaintenanceRequest) -> None:
    """`VACUUM INTO` a new file, which SQLite makes durable itself."""
    connection = open_immutable(request["path"])
    connection.execute("VACUUM INTO ?", (request["target"],))
    connection.close()


def set_journal_mode(request: MaintenanceRequest) -> None:
    """Set the journal mode that the app uses, which leaves no side file."""
    connection = apsw.Connection(request["path"], flags=apsw.SQLITE_OPEN_READWRITE)
    connection.execute("PRAGMA writable_schema=ON")  # ignore what this SQLite cannot parse
    connection.execute(f"PRAGMA journal_mode={'WAL' if request['mode'] == 'wal' else 'DELETE'}").fetchall()
    connection.close()


def _explain(error: apsw.Error, verb: str) -> BackupdError:
    if isinstance(error, apsw.FullError):
        return NoSpace(f"no space to {verb} the copy", "free space, or move backups_dir")
    if isinstance(error, apsw.SQLError | apsw.CorruptError) and verb == "compact":
        return SnapshotFailed(
            f"VACUUM needs to read the whole schema, with the functions and collations of the app: {error}",
            'use method = "backup"',
        )
    return WorkerFailed(f"could not {verb} the copy: {error} (SQLite code {result_code(error)})", "see the log")


if __name__ == "__main__":
    serve(maintain)
