"""The HTTP server of the daemon: a thread that sleeps until a client connects, and a connection for each request.

When there are too many connections, one is closed: of other hosts rather than of this one (which requests /livez to
check the daemon), of the address that has the most of them, without a complete request rather than one that waits for
its response, and then the oldest. So neither clients that send nothing nor a flood of them can starve a probe, or an
operator at another address.
"""

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from starlette.types import ASGIApp

from backupd.errors import ListenFailed
from backupd.web.cached_response import describe_error
from backupd.web.connection import Connection

MOST_BODY_BYTES = 64 << 10
_HINTS = {
    errno.EADDRINUSE: "another program or another backupd uses this port: choose another with BACKUPD_HTTP__LISTEN",
    errno.EADDRNOTAVAIL: "this host has no such address: BACKUPD_HTTP__LISTEN=0.0.0.0:8080 listens on all addresses",
    errno.EACCES: "ports below 1024 require root: choose another with BACKUPD_HTTP__LISTEN",
}
_HINT = "check BACKUPD_HTTP__LISTEN (HOST:PORT)"
_BACKLOG = 128
_GRACE_S = 0.5
_START_S = 10.0


class HttpServer:
    """Serves `app` on `listen` (HOST:PORT, `[::]:8080` for IPv6; port 0 lets the system choose).

    `on_error` is called with one line for each error outside the app, in the server's thread. A request with more than
    `most_body_bytes` is refused.
    """

    def __init__(
        self,
        listen: str,
        app: ASGIApp,
        on_error: Callable[[str], None] = lambda _: None,
        *,
        most_body_bytes: int = MOST_BODY_BYTES,
    ) -> None:
        self._listen = listen
        self._app = app
        self._on_error = on_error
        self._most_body_bytes = most_body_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._open: set[Connection] = set()
        self._started = threading.Event()
        self._thread: threading.Thread | None = None
        self.port = 0  # that it is bound to, once it has started

    @property
    def running(self) -> bool:
        """Whether its thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Listen, and answer from now on. Raises ListenFailed where that address is not to be had."""
        sockets = listening_sockets(self._listen)
        self.port = sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=(sockets,), name="backupd-http", daemon=True)
        self._thread.start()
        if not self._started.wait(_START_S) or self._end is None:
            raise ListenFailed("the HTTP server does not start", "see the log for the cause")

    def stop(self, timeout_s: float = 1.0) -> None:
        """Stop listening, complete responses that are being sent, abort the rest; waits at most `timeout_s`."""
        loop, end = self._loop, self._end
        if loop is not None and end is not None and not loop.is_closed():
            loop.call_soon_threadsafe(end.set)
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self, sockets: list[socket.socket]) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.get_loop().set_exception_handler(self._report)
                runner.run(self._serve(sockets))
        except Exception as error:  # noqa: BLE001 - the end of the thread is always reported
            self._on_error(f"the HTTP server ended: {describe_error(error)}")
        finally:
            for listener in sockets:  # a client of a server that has ended is refused at once
                listener.close()
            self._started.set()

    async def _serve(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        end = asyncio.Event()

        def accept() -> Connection:
            return Connection(self._app, self._open, end, self._most_body_bytes)

        servers = [await loop.create_server(accept, sock=one, backlog=_BACKLOG) for one in sockets]
        self._loop, self._end = loop, end
        self._started.set()
        await end.wait()
        for listener in sockets:
            loop.remove_reader(listener)
        for connection in list(self._open):
            connection.close_if_idle()
        # The tasks are responses, and what asyncio does between accept() and connection_made(), for which the servers
        # must still be open: else it loses the socket without closing it.
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if waiting := tasks | {connection.closed for connection in self._open}:
            await asyncio.wait(waiting, timeout=_GRACE_S)
        for connection in list(self._open):
            connection.abort()
        for server in servers:
            server.close()
        await asyncio.sleep(0)  # the round of the loop in which connections end

    def _report(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._on_error(f"HTTP: {context.get('message')}: {context.get('exception')!r}")


def listening_sockets(listen: str) -> list[socket.socket]:
    """Listen on every address that the host of `listen` (HOST:PORT) has, on one port. Raises ListenFailed."""
    host, _, port = listen.rpartition(":")
    flags = socket.AI_PASSIVE | socket.AI_NUMERICSERV
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=flags)
    except (OSError, ValueError) as error:
        raise ListenFailed(f"cannot listen on {listen}: {error}", _HINT) from None
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    # [::] alone means IPv4 as well, whatever net.ipv6.bindv6only says; beside 0.0.0.0 it must not.
    dual = len(addresses) == 1 and addresses[0][0] == socket.AF_INET6 and socket.has_dualstack_ipv6()
    with ExitStack() as on_error:
        sockets: list[socket.socket] = []
        try:
            for family, (name, chosen, *rest) in addresses:
                address = (name, sockets[0].getsockname()[1] if sockets else chosen, *rest)
                one = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
                sockets.append(on_error.enter_context(one))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ListenFailed(f"cannot listen on {listen}: {reason}", _HINTS.get(error.errno or 0, _HINT)) from None
        on_error.pop_all()
    return sockets
