"""HTTP in a thread of the daemon, which sleeps until a client connects."""

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from starlette.types import ASGIApp

from backupd.errors import ListenFailed
from backupd.web.cached_response import describe_error
from backupd.web.connection import Connection

_Address = tuple[Any, ...]
_HINTS = {
    errno.EADDRINUSE: "another program, or another backupd, has that port: choose another with BACKUPD_HTTP__LISTEN",
    errno.EADDRNOTAVAIL: "this host has no such address: BACKUPD_HTTP__LISTEN=0.0.0.0:8080 listens on all there are",
    errno.EACCES: "ports below 1024 are for root: choose another with BACKUPD_HTTP__LISTEN",
}
_HINT = "check BACKUPD_HTTP__LISTEN (HOST:PORT)"
_BACKLOG = 128
_GRACE_S = 0.5
_START_S = 10.0


class HttpServer:
    """Serves `app` on `listen` (HOST:PORT, `[::]:8080` for IPv6; port 0 lets the system choose).

    `on_error` hears of what goes wrong outside the app, one line each, from the server's thread.
    """

    def __init__(self, listen: str, app: ASGIApp, on_error: Callable[[str], None] = lambda _: None) -> None:
        self._listen = listen
        self._app = app
        self._on_error = on_error
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._open: set[Connection] = set()
        self._started = threading.Event()
        self._thread: threading.Thread | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The port that it is bound to; 0 before `start`."""
        return self._port

    @property
    def running(self) -> bool:
        """Whether its thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Listen, and answer from now on. Raises ListenFailed where that address is not to be had."""
        sockets = listening_sockets(self._listen, _BACKLOG)
        self._port = sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=(sockets,), name="backupd-http", daemon=True)
        self._thread.start()
        if not self._started.wait(_START_S) or self._end is None:
            raise ListenFailed("the HTTP server does not start", "look at the log for what came before")

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
                runner.get_loop().set_exception_handler(self._tell)
                runner.run(self._serve(sockets))
        except Exception as error:  # noqa: BLE001 - a thread's end must not go unheard
            self._on_error(f"the HTTP server ended: {describe_error(error)}")
        finally:
            for listener in sockets:  # a client of a server that has ended is refused at once
                listener.close()
            self._started.set()

    async def _serve(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        end = asyncio.Event()

        def accept() -> Connection:
            return Connection(self._app, self._open, end)

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

    def _tell(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._on_error(f"HTTP: {context.get('message')}: {context.get('exception')!r}")


def listening_sockets(listen: str, backlog: int) -> list[socket.socket]:
    """Listen on every address that the host of `listen` (HOST:PORT) has, on one port. Raises ListenFailed."""
    host, _, port = listen.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.strip("[]") or None,
            int(port),
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV,
        )
    except (OSError, ValueError) as error:
        raise ListenFailed(f"cannot listen on {listen}: {error}", _HINT) from None
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    try:
        return _all_listening(addresses, backlog)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ListenFailed(f"cannot listen on {listen}: {reason}", _HINTS.get(error.errno or 0, _HINT)) from None


def _all_listening(addresses: Sequence[tuple[socket.AddressFamily, _Address]], backlog: int) -> list[socket.socket]:
    with ExitStack() as on_error:
        sockets: list[socket.socket] = []
        for family, address in addresses:
            chosen = sockets[0].getsockname()[1] if sockets else address[1]
            one = on_error.enter_context(socket.socket(family, socket.SOCK_STREAM))
            _listen(one, (address[0], chosen, *address[2:]), backlog, alone=len(addresses) == 1)
            sockets.append(one)
        on_error.pop_all()
        return sockets


def _listen(one: socket.socket, address: _Address, backlog: int, *, alone: bool) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was ours a moment ago is free
    if one.family == socket.AF_INET6:
        # [::] alone means IPv4 as well, whatever net.ipv6.bindv6only says; beside 0.0.0.0 it must not.
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not alone)
    one.bind(address)
    one.setblocking(False)  # noqa: FBT003 - it takes no keyword
    one.listen(backlog)
