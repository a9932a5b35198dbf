"""Put the daemon together, run it, and take it apart."""

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import NoReturn

from backupd import __version__
from backupd.bootstrap.notifications import notification_options
from backupd.bootstrap.tasks import daemon_context, limits, monitors, planned_tasks, retention_rule
from backupd.config import Config
from backupd.daemon.daemon import Daemon
from backupd.daemon.notifier import Notifier
from backupd.daemon.task_queue import TaskQueue, TaskQueues
from backupd.errors import ConfigError
from backupd.health import Health, Limit
from backupd.log import Event, EventLog
from backupd.pings import Monitor
from backupd.privileges import (
    become_owner_of_backups,
    become_root_again,
    drop_privileges,
    hand_over_backups,
    identity_for,
)
from backupd.schedule import Planned
from backupd.status.current import read_status
from backupd.status.history import read_history
from backupd.status.model import History, Status
from backupd.status.text import status_lines
from backupd.tasks.context import TaskContext
from backupd.tasks.freshness import read_health_facts
from backupd.tasks.requests import RetentionRule
from backupd.web.routes import make_app
from backupd.web.server import HttpServer


class OwnerHandover:
    """Asked once a minute; what root made meanwhile goes to the successor first, who could do nothing without it."""

    def __init__(self, config: Config, log: EventLog) -> None:
        self._config, self._log = config, log
        self._told = ""

    def due(self) -> bool:
        """Tell whether all is ready for a beginning as another user; what is in the way is logged once."""
        try:
            identity = identity_for(self._config, os.environ)
            if identity is None:
                return False
            become_root_again()
            hand_over_backups(self._config, identity)
        except ConfigError as error:
            if error.message != self._told:
                self._log.error(Event.RUN_FAILED, error.message, hint=error.hint)
            self._told = error.message
            become_owner_of_backups(self._config, os.environ)
            return False
        return True


_ENDS = (signal.SIGTERM, signal.SIGINT)


class DaemonStatus:
    """The running daemon as HTTP sees it: `service.survey.Service`."""

    def __init__(
        self,
        daemon: Daemon,
        planned: tuple[Planned, ...],
        limits: tuple[Limit, ...],
        retention: RetentionRule,
        context: TaskContext,
        monitors: Mapping[str, Monitor],
    ) -> None:
        self._daemon, self._planned, self._limits, self._expiry, self._context = (
            daemon,
            planned,
            limits,
            retention,
            context,
        )
        self._monitors = monitors
        self._started_at = context.clock()

    def alive(self) -> tuple[str, ...]:
        """Return why process, scheduler or catalog do not work, in words without paths; empty when all do."""
        return self._daemon.alive()

    def health(self) -> Health:
        """Judge how old the last proofs are."""
        return Health.of(read_health_facts(self._limits, self._context), self._context.clock())

    def status(self) -> Status:
        """Look at everything."""
        return read_status(self._planned, self._limits, self._context, self._started_at, self._monitors)

    def history(self) -> History:
        """Look at everything, and at how it came to be."""
        return read_history(self._planned, self._limits, self._expiry, self._context, self._started_at, self._monitors)


_HTTP_STOP_S = 1.0
_END_S = 7.5


def serve(config: Config) -> NoReturn:
    """Become whom PUID asks for, serve until SIGTERM or SIGINT, and exit 0.

    Ends the process itself: no thread that waits for a disk may keep it. Raises ConfigError, and BackupdError when the
    port is taken.
    """
    exit_within(_END_S)
    identity = drop_privileges(config, os.environ)
    become_owner_of_backups(config, os.environ)
    context = daemon_context(config, sys.stdout)
    planned = planned_tasks(config)
    woken = threading.Event()
    lanes = TaskQueues(*(TaskQueue(config, context.log, context.clock) for _ in range(2)))
    daemon = Daemon(planned, lanes, context, OwnerHandover(config, context.log).due, on_end=woken.set)
    overview = DaemonStatus(daemon, planned, limits(config), retention_rule(config), context, monitors(config))
    server = _server(config, overview, context)
    teller = _teller(config, daemon, overview, context, woken)
    for end in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(end) is not signal.SIG_IGN:  # inherited: see `unwind_on_signals`
            signal.signal(end, lambda *_: daemon.stop())
    server.start()
    teller.start()
    what = f"backupd {__version__} looks after {', '.join(config.sources)}"
    whom = f"as user {identity.uid}:{identity.gid} ({identity.reason})" if identity else f"as user {os.geteuid()}"
    context.log.info(Event.DAEMON_STARTED, f"{what} {whom}; it answers on {config.http.listen}")
    anew = daemon.run()
    teller.stop()
    server.stop(_HTTP_STOP_S)
    context.log.info(Event.DAEMON_STOPPED, "the databases have an owner now: starting anew" if anew else "stopped")
    context.log.close()
    sys.stdout.flush()
    if anew:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very command
    os._exit(0)


def _teller(
    config: Config, daemon: Daemon, overview: DaemonStatus, context: TaskContext, woken: threading.Event
) -> Notifier:
    request = notification_options(config)
    return Notifier(
        request,
        context,
        is_owner=lambda: daemon.looks_after(request.scope),
        errors=daemon.alive,
        digest=lambda: status_lines(overview.status()),
        wake=woken,
    )


def _server(config: Config, overview: DaemonStatus, context: TaskContext) -> HttpServer:
    def on_error(what: str) -> None:
        context.log.error(Event.HTTP_FAILED, what)

    token = config.http.token.get_secret_value() if config.http.token else None
    return HttpServer(config.http.listen, make_app(overview, token, on_error), on_error)


def exit_within(seconds: float) -> None:
    """Let this process end at most so long after SIGTERM or SIGINT, with exit code 1 where it did not end by itself.

    The signals must have handlers: the interpreter tells a pipe of each as it arrives (signal.set_wakeup_fd), whatever
    the main thread is doing.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reader, seconds), name="ending", daemon=True).start()


def _wait(reader: int, seconds: float) -> None:
    while os.read(reader, 1)[0] not in _ENDS:
        pass
    time.sleep(seconds)
    os._exit(1)
