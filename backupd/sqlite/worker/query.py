"""Read `user_version` and the result of a query from a restored copy, read-only.

Run as `python -m backupd.sqlite.worker.query`. The app may have it open: side files are created as its owner.
"""

import os

import apsw

from backupd.errors import DrillFailed
from backupd.sqlite.file_format import is_encrypted
from backupd.sqlite.worker.protocol import ParentPipe, QueryReply, QueryRequest, serve
from backupd.system.owners import become_owner, known_owner

_BUSY_MS = 5000


def query(request: QueryRequest, _parent: ParentPipe) -> QueryReply:
    """Return `user_version` and the first value of the first row as text, None without a row. Raises DrillFailed."""
    path = request["path"]
    become_owner(*known_owner(path, os.stat(path)))
    if is_encrypted(path):
        raise DrillFailed(
            "the restored copy is encrypted: only its app can read it",
            "use drill.command or drill.health_url instead of drill.query and drill.user_version",
        )
    try:
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(_BUSY_MS)
        version = connection.execute("PRAGMA user_version").get
        value = connection.execute(request["query"]).fetchone() if request["query"] else None
        connection.close()
    except apsw.Error as error:
        raise DrillFailed(f"the restored copy cannot be queried: {error}", "check drill.query, also by hand") from error
    return QueryReply(user_version=int(version), answer=None if value is None else _text(value[0]))


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return "NULL" if value is None else str(value)


if __name__ == "__main__":
    serve(query)
