"""Ask a restored copy for its version and for the answer to a query, without a way to write to it.

Run as `python -m backupd.sqlite.worker.query`. The app may have it open: any side file is made as its owner.
"""

import os
from typing import Any

import apsw

from backupd.errors import DrillFailed
from backupd.sqlite.file_format import is_encrypted
from backupd.sqlite.worker.protocol import ParentPipe, serve
from backupd.system.owners import become_owner, known_owner

_BUSY_MS = 5000


def work(request: dict[str, Any], _parent: ParentPipe) -> dict[str, Any]:
    """Return `user_version` and, as text, the first value of the first row of `request["query"]`, if there is one."""
    path: str = request["path"]
    become_owner(*known_owner(path, os.stat(path)))
    if is_encrypted(path):
        raise DrillFailed(
            "the restored copy is encrypted: only its app can be asked whether it works",
            "use drill.command or drill.health_url instead of drill.query and drill.user_version",
        )
    try:
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(_BUSY_MS)
        version = connection.execute("PRAGMA user_version").get
        value = connection.execute(request["query"]).fetchone() if request["query"] else None
        connection.close()
    except apsw.Error as error:
        raise DrillFailed(
            f"the restored copy cannot be asked: {error}", "check drill.query, by hand as well"
        ) from error
    return {"user_version": version, "answer": None if value is None else _text(value[0])}


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return "NULL" if value is None else str(value)


if __name__ == "__main__":
    serve(work)
