"""The last lines of `backup.log`: read from its end, whatever its size, and whatever else has written to it."""

import errno
import json
import os
import stat
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from backupd.status.model import LogLine

_TAIL_BYTES: Final = 128 << 10
_MESSAGE_CHARACTERS: Final = 2000


def last_lines(path: Path, most: int) -> tuple[LogLine, ...]:
    """Return the last `most` lines, oldest first; none where there is no log yet. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ()
    with open(descriptor, "rb", buffering=0) as stream:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        begin = max(0, state.st_size - _TAIL_BYTES)
        stream.seek(begin)
        lines = stream.read(_TAIL_BYTES).split(b"\n")
    whole = lines[1:] if begin else lines
    return tuple(_parsed(line) for line in [line for line in whole if line.strip()][-most:])


def _parsed(line: bytes) -> LogLine:
    try:
        found: Any = json.loads(line)
        at = datetime.fromisoformat(found["@timestamp"])
        level, message = str(found["log.level"]), str(found["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return LogLine(None, "", line.decode("utf-8", "backslashreplace")[:_MESSAGE_CHARACTERS])
    return LogLine(at if at.tzinfo else None, level[:20], message[:_MESSAGE_CHARACTERS])
