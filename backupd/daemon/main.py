"""`backupd serve`: builds the daemon, runs it, and stops it."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import BinaryIO, NoReturn

from backupd import __version__
from backupd.bootstrap.launch import relaunch_with
from backupd.bootstrap.notifications import notification_options, page_name
from backupd.bootstrap.tasks import daemon_context, limits, planned_tasks, retention_rule, subjects_of_backups
from backupd.config import Config, SourceSets
from backupd.daemon.daemon import Daemon
from backupd.daemon.notifier import Notifier
from backupd.daemon.requested import RequestedBackups
from backupd.daemon.task_queue import TaskQueue, TaskQueues
from backupd.errors import ConfigError
from backupd.log import Event, EventLog
from backupd.model import AnyManifest
from backupd.privileges import (
    ROOT_HINT,
    become_owner_of_backups,
    become_root_again,
    drop_privileges,
    hand_over_backups,
    identity_for,
    runs_as_root,
)
from backupd.status.current import StatusScope, read_status
from backupd.status.history import StatusService
from backupd.status.model import Instance
from backupd.status.text import status_lines
from backupd.system.container import exec_prefix
from backupd.system.in_thread import in_thread
from backupd.system.signals import StopSignals, exit_on_signals
from backupd.tasks.context import TaskContext
from backupd.web.door import Door
from backupd.web.routes import make_app
from backupd.web.server import HttpServer

_HTTP_STOP_S = 1.0
_SEARCH_S = 3.0
_MOST_NAMED = 5
_EXIT_S = 7.5


def serve(config: Config) -> NoReturn:
    """Switch to the user that PUID names, serve until SIGTERM, SIGHUP or SIGINT, and exit 0.

    Ends the process itself, since a thread may hang on a disk. Raises ConfigError, and ListenFailed when the port is
    taken.
    """
    signals = StopSignals(_EXIT_S)
    identity = drop_privileges(config, os.environ)
    become_owner_of_backups(config, os.environ)
    context = daemon_context(config, sys.stdout)
    run_ended = threading.Event()
    scope = StatusScope(
        planned_tasks(config),
        limits(config),
        retention_rule(config),
        config.pings,
        context,
        context.clock(),
        Instance(page_name(config), config.docs_url, exec_prefix()),
    )
    queues = TaskQueues(*(TaskQueue(config, context.log, context.clock) for _ in range(2)))
    handover = OwnerHandover(config, context.log, queues.idle)
    daemon = Daemon(scope.planned, queues, context, handover.ready, on_end=run_ended.set)
    requested = RequestedBackups(subjects_of_backups(config), queues, daemon.owns, context)
    server = _server(config, StatusService(scope, daemon.alive), requested, context)
    options = notification_options(config)
    notifier = Notifier(
        options,
        context,
        is_owner=lambda: daemon.owns(options.scope),
        is_free=daemon.is_free,
        errors=daemon.alive,
        digest=lambda: status_lines(read_status(scope), config.docs_url),
        wake=run_ended,
    )
    signals.take_over()
    server.start()
    notifier.start()
    what = f"backupd {__version__} backs up {', '.join(subjects_of_backups(config))}"
    user = f"as user {identity.uid}:{identity.gid} ({identity.reason})" if identity else f"as user {os.geteuid()}"
    context.log.info(Event.DAEMON_STARTED, f"{what} {user}; it answers on {config.http.listen}")
    if as_root := runs_as_root(os.environ):
        context.log.warning(Event.DAEMON_RUNS_AS_ROOT, f"backupd runs as root, {as_root}", hint=ROOT_HINT)
    restart = daemon.run(signals.stop) and not signals.came
    notifier.stop()
    server.stop(_HTTP_STOP_S)
    context.log.info(Event.DAEMON_STOPPED, f"{handover.reason}: restarting" if restart else "stopped")
    context.log.close()
    sys.stdout.flush()
    if restart:
        exit_on_signals()  # nothing asks `came` any more
        if not signals.came:
            relaunch_with(handover.config, os.environ)
    os._exit(0)


class OwnerHandover:
    """Whether the daemon should restart: with other databases that have been found since, or as their owner.

    `config` and `reason` are for the restart. Files that root made until then are handed over first: another user
    could not write them.
    """

    def __init__(self, config: Config, log: EventLog, idle: Callable[[], bool] = lambda: True) -> None:
        self.config, self._log, self._idle = config, log, idle
        self._search: Future[SourceSets] | None = None
        self.reason = "the owner of the databases has changed"
        self._last_error = ""

    def ready(self) -> bool:
        """Return whether the daemon has to restart: as another user, or to be refused, since it is not to stay root.

        An obstacle to the former is logged once.
        """
        if self._finds_others():
            return True
        try:
            identity = identity_for(self.config, os.environ)
        except ConfigError:
            return True
        if identity is None:
            return False
        try:
            become_root_again()
            hand_over_backups(self.config, identity)
        except ConfigError as error:
            if error.message != self._last_error:
                self._log.error(Event.RUN_FAILED, error.message, hint=error.hint)
            self._last_error = error.message
            become_owner_of_backups(self.config, os.environ)
            return False
        return True

    def _finds_others(self) -> bool:
        """Search directories once more; return whether their databases are others now. No run is cut off for that.

        The search goes on until the next time where a disk is slow.
        """
        sets = self.config.source_sets
        if sets is None or not self._idle():
            return False
        if self._search is None:
            with suppress(RuntimeError):  # the system starts no thread just now
                self._search = in_thread(sets.again, "search")
        if self._search is None or not wait([self._search], _SEARCH_S).done:
            return False
        found, self._search = self._search.result(), None
        self.config = self.config.with_source_sets(found)
        if found.sources_are_those_of(sets):
            return False
        self.reason = change_of(sets, found)
        return True


def change_of(before: SourceSets, now: SourceSets) -> str:
    """Return in words which databases were found since, or are gone."""
    came, left = now.databases() - before.databases(), before.databases() - now.databases()
    if len(came) == 1:
        return f"the database {next(iter(came))} was found"
    if came:
        return f"{len(came)} databases were found: {', '.join(map(str, sorted(came)[:_MOST_NAMED]))}"
    if left:
        return f"without a backup, and gone: {', '.join(map(str, sorted(left)[:_MOST_NAMED]))}"
    return "the search for databases has ended otherwise than before"


def _server(config: Config, status: StatusService, requested: RequestedBackups, context: TaskContext) -> HttpServer:
    def on_error(what: str) -> None:
        context.log.error(Event.HTTP_FAILED, what)

    http = config.http
    token, backup_token, download_token = (
        secret.get_secret_value() if secret else None for secret in (http.token, http.backup_token, http.download_token)
    )

    def open_archive(generation: str) -> tuple[AnyManifest, BinaryIO]:
        from backupd.tasks.verify import open_verified  # few daemons ever need it, and all are to stay small

        return open_verified(generation, context)

    door = Door(requested, open_archive, backup_token, download_token) if http.actions and backup_token else None
    return HttpServer(http.listen, make_app(status, token, on_error, door=door), on_error)
