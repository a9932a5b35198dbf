"""Short tasks on one copy: roll back its journal, compact it, query it.

Run as `python -m backupd.sqlite.worker.copy_tasks`.
"""

import os

import apsw

from backupd.errors import BackupdError, DrillFailed, NoSpace, SnapshotFailed, WorkerFailed
from backupd.sqlite.file_format import looks_encrypted
from backupd.sqlite.worker.connection import open_held, open_immutable, replaced, result_code
from backupd.sqlite.worker.protocol import CopyRequest, QueryResult
from backupd.system.fs import OPEN_FILES
from backupd.system.owners import become_owner, known_owner
from backupd.system.worker import ParentPipe, serve

_BUSY_MS = 5000
_ANSWER_CHARACTERS = 1 << 16  # of an answer, which is compared with a short one


def do_task(request: CopyRequest, _parent: ParentPipe) -> object:
    """Do `request["verb"]` to the copy at `request["path"]`; only `query` has a reply."""
    verbs = {"recover": recover, "compact": compact, "query": query, "names": names}
    try:
        return verbs[request["verb"]](request)
    except apsw.Error as error:
        raise _explain(error, request) from error


def recover(request: CopyRequest) -> None:
    """Roll the copy back with its journal, which SQLite then removes."""
    connection = open_held(request["path"], request["held"], apsw.SQLITE_OPEN_READWRITE)
    connection.execute("PRAGMA user_version").fetchall()
    connection.close()


def compact(request: CopyRequest) -> None:
    """`VACUUM INTO` the empty file `target`, which SQLite makes durable itself. Raises SnapshotFailed."""
    connection = open_immutable(request["path"], request["held"])
    connection.execute("VACUUM INTO ?", (request["target"],))
    connection.close()
    if not os.fstat(request["target_held"]).st_size:
        raise replaced(request["target"])


def query(request: CopyRequest) -> dict[str, object]:
    """Return the fields of a QueryResult, read-only. Raises DrillFailed.

    The app may have the copy open: side files are created as its owner.
    """
    connection = _opened(request)
    version = connection.execute("PRAGMA user_version").get
    row = connection.execute(request["query"]).fetchone() if request["query"] else None
    connection.close()
    return QueryResult(int(version), None if row is None else _text(row[0]))._asdict()


def names(request: CopyRequest) -> None:
    """Write the first column of each row into the file `target_held`, with a zero byte after each. Raises DrillFailed.

    It is read-only, and leaves out values that are NULL.
    """
    connection = _opened(request)
    with open(request["target_held"], "wb", closefd=False) as target:
        for value, *_ in connection.execute(request["query"] or ""):
            if value is not None:
                name = value if isinstance(value, bytes) else str(value).encode(errors="surrogateescape")
                target.write(name + b"\0")
    connection.close()


def _opened(request: CopyRequest) -> apsw.Connection:
    """Open the copy for a query, read-only. Raises DrillFailed where it is encrypted."""
    held = request["held"]
    owner = known_owner(f"{OPEN_FILES}{held}", os.fstat(held))
    if looks_encrypted(held):
        what = "the restored copy is encrypted: only its app can read it"
        if request["verb"] == "names":
            raise DrillFailed(what, f"remove files.{request['files']}.query")
        raise DrillFailed(what, "use drill.command or drill.health_url instead of drill.query and drill.user_version")
    connection = open_held(request["path"], held, apsw.SQLITE_OPEN_READONLY)
    become_owner(*owner)
    connection.set_busy_timeout(_BUSY_MS)
    return connection


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value[:_ANSWER_CHARACTERS].hex()
    return "NULL" if value is None else str(value)[:_ANSWER_CHARACTERS]


def _explain(error: apsw.Error, request: CopyRequest) -> BackupdError:
    verb = request["verb"]
    if verb == "query":
        return DrillFailed(
            f"the restored copy cannot be queried: {error}",
            "check drill.query: texts are in single quotes, also in views of the app",
        )
    if verb == "names":
        return DrillFailed(
            f"the copy cannot be queried: {error}",
            f"check files.{request['files']}.query: texts are in single quotes, also in views of the app",
        )
    if isinstance(error, apsw.FullError):
        return NoSpace(f"no space to {verb} the copy", "free space, or move backups_dir")
    if isinstance(error, apsw.SQLError | apsw.CorruptError) and verb == "compact":
        return SnapshotFailed(
            f"VACUUM needs to read the whole schema, with the functions and collations of the app: {error}",
            'use method = "backup"',
        )
    return WorkerFailed(f"could not {verb} the copy: {error} (SQLite code {result_code(error)})", "see the log")


if __name__ == "__main__":
    serve(do_task)
