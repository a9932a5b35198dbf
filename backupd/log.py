"""`backup.log`: JSON lines for people, `tail -F`, logrotate and log shippers.

Fields follow the Elastic Common Schema (https://www.elastic.co/guide/en/ecs-logging/overview/current/intro.html).
"""

import fcntl
import logging
import os
import stat
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from backupd.formatting import printable
from backupd.masking import Mask
from backupd.system.directory import Directory
from backupd.system.fs import set_mode
from backupd.system.small_file import open_regular

ECS_VERSION = "8.11.0"
_LINES_KEPT = 20


class Event(StrEnum):
    """Every event name that backupd logs; `docs/log-events.md` explains each."""

    RUN_STARTED = "run.started"
    RUN_FINISHED = "run.finished"
    RUN_INTERRUPTED = "run.interrupted"
    RUN_DUE = "run.due"
    RUN_REQUESTED = "run.requested"
    RUN_STOPPED = "run.stopped"
    RUN_FAILED = "run.failed"
    REPLICA_RETRIED = "replica.retried"
    HOOK_CALLED = "hook.called"
    LOCK_WAITING = "lock.waiting"
    LOCK_TAKEN_OVER = "lock.taken_over"
    STAGING_SWEPT = "staging.swept"
    STAGING_STUCK = "staging.stuck"
    PUBLISH_RECOVERED = "publish.recovered"
    REMOVAL_RECOVERED = "removal.recovered"
    SNAPSHOT_WAITING = "snapshot.waiting"
    SNAPSHOT_RETRIED = "snapshot.retried"
    SNAPSHOT_UNCHANGED = "snapshot.unchanged"
    SNAPSHOT_QUARANTINED = "snapshot.quarantined"
    SOURCE_SHRUNK = "source.shrunk"
    GENERATION_PUBLISHED = "generation.published"
    GENERATION_SENT = "generation.sent"
    POINT_PUBLISHED = "point.published"
    GENERATION_REMOVED = "generation.removed"
    POINT_REMOVED = "point.removed"
    POINT_SENT = "point.sent"
    CONTENTS_SWEPT = "contents.swept"
    GENERATION_DAMAGED = "generation.damaged"
    GENERATION_LOST = "generation.lost"
    GENERATION_VERIFIED = "generation.verified"
    GENERATION_RESTORED = "generation.restored"
    GENERATION_PINNED = "generation.pinned"
    GENERATION_UNPINNED = "generation.unpinned"
    RESTORE_RECOVERED = "restore.recovered"
    LEFTOVER_REMOVED = "leftover.removed"
    STORE_ADOPTED = "store.adopted"
    MANIFEST_REFUSED = "manifest.refused"
    PRUNING_HELD = "pruning.held"
    PRUNING_RELEASED = "pruning.released"
    CATALOG_UNAVAILABLE = "catalog.unavailable"
    CATALOG_REBUILT = "catalog.rebuilt"
    DAEMON_STARTED = "daemon.started"
    DAEMON_RUNS_AS_ROOT = "daemon.runs_as_root"
    DAEMON_STANDBY = "daemon.standby"
    DAEMON_STOPPED = "daemon.stopped"
    DOCTOR_FOUND = "doctor.found"
    SCHEDULER_STALLED = "scheduler.stalled"
    TICK_FAILED = "tick.failed"
    HTTP_FAILED = "http.failed"
    PING_FAILED = "ping.failed"
    MESSAGE_SENT = "message.sent"
    MESSAGE_FAILED = "message.failed"
    MESSAGE_DROPPED = "message.dropped"
    NOTIFICATION_FAILED = "notification.failed"
    GATE_STARTED = "gate.started"
    GATE_STOPPED = "gate.stopped"
    PUSH_RECEIVED = "push.received"
    PUSH_IGNORED = "push.ignored"
    PUSH_REFUSED = "push.refused"
    DEPLOY_STARTED = "deploy.started"
    DEPLOY_RESUMED = "deploy.resumed"
    DEPLOY_ENDED = "deploy.ended"
    STEP_STARTED = "step.started"
    STEP_ENDED = "step.ended"
    DEPLOY_RECORD_FAILED = "deploy.record_failed"
    COMMIT_STATUS_FAILED = "commit_status.failed"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How the log is rotated: a file of `max_bytes` (0: no limit) is renamed, and `kept` old files are kept.

    With `json` the console shows the JSON lines of the file, else plain ones.
    """

    json: bool = False
    max_bytes: int = 0
    kept: int = 4


class EventLog:
    """Logs events with fields under one logger; every string passes `mask`, which also masks what goes elsewhere."""

    def __init__(self, logger: logging.Logger, mask: Mask) -> None:
        self._logger = logger
        self.mask = mask
        self._last: deque[str] = deque(maxlen=_LINES_KEPT)
        self.count = 0

    def info(self, event: Event, message: str, **fields: object) -> None:
        """Log a normal event."""
        self._log(logging.INFO, event, message, fields)

    def warning(self, event: Event, message: str, **fields: object) -> None:
        """Log an event that an operator should look at soon."""
        self._log(logging.WARNING, event, message, fields)

    def error(self, event: Event, message: str, **fields: object) -> None:
        """Log an event that needs an operator now."""
        self._log(logging.ERROR, event, message, fields)

    def lines_after(self, count: int) -> tuple[str, ...]:
        """Return the last lines after the first `count`, each a level and a sentence without secrets."""
        lines = tuple(self._last)
        return lines[max(0, len(lines) - (self.count - count)) :]

    def close(self) -> None:
        """Close the file; later events are dropped."""
        self._logger.disabled = True
        for handler in self._logger.handlers:
            with suppress(OSError):  # lines that a full disk rejects are lost
                handler.close()

    def _log(self, level: int, event: Event, message: str, fields: dict[str, object]) -> None:
        # Names with a dot are the schema's; the others have a namespace of their own (ECS custom fields).
        named = {key if "." in key else f"backupd.{key}": value for key, value in fields.items() if value is not None}
        facts = self.mask.of({key: _plain(value) for key, value in named.items()})
        masked = self.mask(message)
        self._last.append(printable(f"{logging.getLevelName(level)} {masked}"))
        self.count += 1
        self._logger.log(level, "%s", masked, extra={"event.action": event.value, **facts})


def _plain(value: object) -> object:
    """Return `value` as JSON can hold it: what JSON does not know becomes text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, int | float) else str(value)


class _OwnedFileHandler(WatchedFileHandler):
    """Creates a missing file with mode 0640 and the directory's owner, so that a run as root locks no daemon out.

    After a line that a full disk truncated it starts a new one.
    """

    def __init__(self, path: Path, settings: LogSettings, *, late: bool) -> None:
        super().__init__(path, delay=late, encoding="utf-8")
        self._settings = settings

    def _open(self) -> Any:  # noqa: ANN401 - the base class returns a text stream of a private type
        path = Path(self.baseFilename)
        with suppress(FileExistsError), Directory.open(path.parent) as directory:
            descriptor = directory.hold(directory.create_file(path.name, 0o640))
            set_mode(descriptor, 0o640, path)  # whatever the umask says
            directory.give_owner(descriptor)
        stream = open(path, "a", encoding=self.encoding, opener=open_regular)  # noqa: SIM115 - the handler closes it
        if _is_cut_off(path):
            with suppress(OSError):  # the disk is still full
                stream.write("\n")
                stream.flush()
        return stream

    def emit(self, record: logging.LogRecord) -> None:
        """Append the line, to a new file after a rotation; a file that cannot be created is an error too."""
        try:
            with suppress(OSError):  # the file grows where the directory allows no rename
                self._rotate()
            super().emit(record)
        except OSError:
            self.handleError(record)

    def _rotate(self) -> None:
        """Rename a file that is too large to `….1`, and older ones to the next number; the next event makes a new one.

        Of several processes only one does so: it locks the file, and makes sure that it still has the name.
        """
        limit, opened = self._settings.max_bytes, self.stream
        if not limit or opened is None or os.fstat(opened.fileno()).st_size < limit:
            return
        path = Path(self.baseFilename)
        names = [path.name, *(f"{path.name}.{number + 1}" for number in range(self._settings.kept))]
        with Directory.open(path.parent) as directory, suppress(BlockingIOError):
            fcntl.flock(opened.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process closes the file
            if directory.holds(path.name, opened.fileno()):
                for name, older in reversed(list(pairwise(names))):
                    with suppress(FileNotFoundError):
                        _remove_directory(directory, older)
                        directory.rename(name, directory, older)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Print nothing: a full disk must not turn a backup into a traceback; the run still reports its result."""


def _remove_directory(directory: Directory, name: str) -> None:
    """Remove a directory that somebody put in the place of an old log: it would keep this one from being renamed."""
    state = directory.stat(name)
    if state is not None and stat.S_ISDIR(state.st_mode):
        directory.remove(name)


class _ConsoleHandler(logging.StreamHandler[TextIO]):
    """Shows events on a console, which may be a pipe whose reader is gone."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Print no traceback: the event is in the file."""


class _PlainLine(logging.Formatter):
    """The format of `docker logs`: the time in UTC, the level, the message of the JSON line, and what to do."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%d %H:%M:%SZ"
    default_msec_format = ""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the event in one line."""
        hint = getattr(record, "backupd.hint", None)
        return printable(super().format(record) + (f" | what to do: {hint}" if hint else ""))


LOG_NAME = "backup.log"


def require_log_writable(directory: Path) -> None:
    """Raise OSError when the log in `directory` exists and cannot be appended to."""
    with suppress(FileNotFoundError):
        os.close(open_regular(directory / LOG_NAME, os.O_WRONLY | os.O_APPEND))


def _is_cut_off(path: Path) -> bool:
    """Tell whether `path` ends in the middle of a line; an unreadable file counts as complete."""
    with suppress(OSError), open(open_regular(path), "rb", buffering=0) as stream:
        if os.fstat(stream.fileno()).st_size:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) != b"\n"
    return False


class _JsonLine(JsonFormatter):
    """The format of `backup.log`."""

    def __init__(self) -> None:
        super().__init__(
            ["message", "levelname", "name"],
            rename_fields={"levelname": "log.level", "name": "log.logger"},
            static_fields={"service.name": "backupd", "ecs.version": ECS_VERSION},
            timestamp="@timestamp",
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Put the time first, where people look for it (ECS logging demands it)."""
        return {"@timestamp": log_data.pop("@timestamp", None), **log_data}


def open_log(
    path: Path,
    mask: Mask | None = None,
    *,
    console: TextIO | None = None,
    late: bool = False,
    settings: LogSettings | None = None,
) -> EventLog:
    """Return the log that appends to `path`, which is created, and created again after logrotate moved it.

    With `console` each event is also written there. With `late` a `path` that cannot be opened is tried
    again at each event; otherwise OSError is raised.
    """
    chosen = settings or LogSettings()
    handler = _OwnedFileHandler(path, chosen, late=late)
    handler.setFormatter(_JsonLine())
    logger = logging.Logger("backupd", logging.INFO)  # noqa: LOG001 - a logger without global state and parents
    logger.addHandler(handler)
    if console is not None:
        lines = _ConsoleHandler(console)
        lines.setFormatter(_JsonLine() if chosen.json else _PlainLine())
        logger.addHandler(lines)
    return EventLog(logger, mask or Mask())


def null_log(mask: Mask | None = None) -> EventLog:
    """Return a log that discards all events, for commands that only read."""
    logger = logging.Logger("backupd")  # noqa: LOG001 - a logger without global state and parents
    logger.addHandler(logging.NullHandler())
    return EventLog(logger, mask or Mask())
