"""uvicorn in a thread of the daemon, which sleeps until somebody asks."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from backupd.errors import BackupdError
from backupd.service.web.connection import Connection
from backupd.service.web.listen import listening_sockets
from backupd.service.web.shared import describe_error

_BACKLOG = 128
_HEADER_BYTES = 16 << 10
_GRACE_S = 0.5
_START_S = 10.0
# From accept() to connection_made() asyncio takes three rounds of its loop: what is in between when the listener is
# closed would stay open, with nobody to answer it.
_ROUNDS_TO_BEGIN = 5


class HttpServer:
    """Serves `app` on `listen` (HOST:PORT, `[::]:8080` for IPv6; port 0 lets the system choose).

    `on_error` hears of what goes wrong outside the app, one line each, from the server's thread.
    """

    def __init__(self, listen: str, app: ASGIApp, on_error: Callable[[str], None] = lambda _: None) -> None:
        self._listen = listen
        self._app = app
        self._on_error = on_error
        self._server: _Server | None = None
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
        """Listen, and answer from now on. Raises BackupdError where that address is not to be had."""
        sockets = listening_sockets(self._listen, _BACKLOG)
        self._port = sockets[0].getsockname()[1]
        self._server = _Server(_config(self._app))
        self._thread = threading.Thread(
            target=self._run, args=(self._server, sockets), name="backupd-http", daemon=True
        )
        self._thread.start()
        if not self._server.is_up.wait(_START_S) or not self._server.started:
            raise BackupdError("the HTTP server does not start", "look at the log for what came before")

    def stop(self, timeout_s: float = 1.0) -> None:
        """Stop listening, let answers that are being sent end, end the rest; wait for that at most `timeout_s`."""
        if self._server is not None and self._thread is not None:
            self._server.stop()
            self._thread.join(timeout_s)

    def _run(self, server: "_Server", sockets: list[socket.socket]) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.get_loop().set_exception_handler(self._tell)
                runner.run(server.serve(sockets))
        except Exception as error:  # noqa: BLE001 - a thread's end must not go unheard
            self._on_error(f"the HTTP server ended: {describe_error(error)}")
        finally:
            for listener in sockets:  # whoever asks a server that has ended shall hear so at once
                listener.close()
            server.is_up.set()

    def _tell(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._on_error(f"HTTP: {context.get('message')}: {context.get('exception')!r}")


class _Server(uvicorn.Server):
    """uvicorn's server, which waits for a word where that one looks ten times a second whether it shall end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()
        self._end: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Let the server end; from any thread, any number of times."""
        loop, end = self._loop, self._end
        if loop is not None and end is not None and not loop.is_closed():
            loop.call_soon_threadsafe(end.set)

    async def main_loop(self) -> None:
        """Wait until `stop` is called."""
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.is_up.set()
        await self._end.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - servers close them
        """Close what listens and what is idle, give answers half a second, and end the rest."""
        loop = asyncio.get_running_loop()
        for listener in (listener for server in self.servers for listener in server.sockets):
            loop.remove_reader(listener.fileno())
        for _ in range(_ROUNDS_TO_BEGIN):
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        last = loop.time() + _GRACE_S
        while self.server_state.connections and loop.time() < last:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.02)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # the round of the loop in which they end


def _config(app: ASGIApp) -> uvicorn.Config:
    """Return uvicorn's configuration; nothing in it comes from the environment, and it never logs."""
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        env_file=None,
        log_config=None,
        log_level=logging.CRITICAL + 1,
        access_log=False,
        workers=1,
        proxy_headers=False,
        server_header=False,
        date_header=False,  # the app writes it: uvicorn would need a clock that ticks
        forwarded_allow_ips=[],
        backlog=_BACKLOG,
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
