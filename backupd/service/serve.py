"""Put the daemon together, run it, and take it apart."""

import os
import signal
import sys
import threading
from typing import NoReturn

from backupd import __version__
from backupd.config import Config
from backupd.identity import become_owner_of_backups, settle
from backupd.jobs.site import Site
from backupd.log import Event
from backupd.service.daemon import Daemon
from backupd.service.ending import end_within
from backupd.service.lanes import Lanes
from backupd.service.overview import Overview
from backupd.service.plan import planned_tasks
from backupd.service.succession import Succession
from backupd.service.teller import Teller
from backupd.service.web.app import make_app
from backupd.service.web.server import HttpServer
from backupd.service.words import status_lines
from backupd.service.worker import Worker
from backupd.telling import tell_order
from backupd.wiring import expiry, limits, monitors, watching_site

_HTTP_STOP_S = 1.0
_END_S = 7.5


def serve(config: Config) -> NoReturn:
    """Become whom PUID asks for, serve until SIGTERM or SIGINT, and exit 0.

    Ends the process itself: no thread that waits for a disk may keep it. Raises ConfigError, and BackupdError when the
    port is taken.
    """
    end_within(_END_S)
    identity = settle(config, os.environ)
    become_owner_of_backups(config, os.environ)
    site = watching_site(config, sys.stdout)
    planned = planned_tasks(config)
    woken = threading.Event()
    lanes = Lanes(*(Worker(config, site.log, site.clock) for _ in range(2)))
    daemon = Daemon(planned, lanes, site, Succession(config, site.log).due, on_end=woken.set)
    overview = Overview(daemon, planned, limits(config), expiry(config), site, monitors(config))
    server = _server(config, overview, site)
    teller = _teller(config, daemon, overview, site, woken)
    for end in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(end) is not signal.SIG_IGN:  # inherited: see `unwind_on_signals`
            signal.signal(end, lambda *_: daemon.stop())
    server.start()
    teller.start()
    what = f"backupd {__version__} looks after {', '.join(config.sources)}"
    whom = f"as user {identity.uid}:{identity.gid} ({identity.reason})" if identity else f"as user {os.geteuid()}"
    site.log.info(Event.DAEMON_STARTED, f"{what} {whom}; it answers on {config.http.listen}")
    anew = daemon.run()
    teller.stop()
    server.stop(_HTTP_STOP_S)
    site.log.info(Event.DAEMON_STOPPED, "the databases have an owner now: starting anew" if anew else "stopped")
    site.log.close()
    sys.stdout.flush()
    if anew:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very command
    os._exit(0)


def _teller(config: Config, daemon: Daemon, overview: Overview, site: Site, woken: threading.Event) -> Teller:
    order = tell_order(config)
    return Teller(
        order,
        site,
        mine=lambda: daemon.looks_after(order.scope),
        alive=daemon.alive,
        digest=lambda: status_lines(overview.status()),
        woken=woken,
    )


def _server(config: Config, overview: Overview, site: Site) -> HttpServer:
    def on_error(what: str) -> None:
        site.log.error(Event.HTTP_FAILED, what)

    token = config.http.token.get_secret_value() if config.http.token else None
    return HttpServer(config.http.listen, make_app(overview, token, on_error), on_error)
