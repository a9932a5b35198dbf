"""One connection each: one request, ten seconds and 64 KiB in all, and never more than so many of them.

h11 reads the request and writes the response. When there are too many connections, one is closed: of other hosts rather
than of this one (which requests /livez to check the daemon), without a complete request rather than one that waits for
its response, and then the oldest. So neither clients that send nothing nor a flood of them can starve a probe.
"""

import asyncio
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import h11
from starlette.types import ASGIApp, Message, Scope

from backupd.web.access import is_loopback

LIFETIME_S = 10.0
MOST_CONNECTIONS = 64
MOST_BYTES = 64 << 10
_HEADER_BYTES: Final = 16 << 10
_INVALID: Final = b"Invalid HTTP request received."


class Connection(asyncio.Protocol):
    """Reads one request, lets `app` (ASGI 3) respond, and closes.

    `open_connections` holds this one and its kind while they are open; once `end` is set, a new one is closed.
    The app gets no request body.
    """

    _transport: asyncio.Transport
    _expiry: asyncio.TimerHandle

    def __init__(self, app: ASGIApp, open_connections: "set[Connection]", end: asyncio.Event) -> None:
        self._app = app
        self._open = open_connections
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEADER_BYTES)
        self._received_bytes = 0
        self._method = b""
        self._response: asyncio.Task[None] | None = None
        self._began = 0.0
        self._client: tuple[str, int] = ("", 0)
        self.closed = self._loop.create_future()

    @property
    def has_request(self) -> bool:
        """Whether a request came that the app responds to."""
        return self._response is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; close the least important connection if there are too many."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - tells mypy what a stream has
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._client = (peer[0], peer[1]) if peer else self._client
        self._began = self._loop.time()
        self._expiry = self._loop.call_later(LIFETIME_S, transport.abort)
        self._open.add(self)
        if self._end.is_set():  # accepted just before the listener was closed
            self.abort()
        elif len(self._open) > MOST_CONNECTIONS:
            max(self._open, key=Connection.dispensability).abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """End; nothing is computed for a client that has left."""
        self._expiry.cancel()
        self._open.discard(self)
        if self._response is not None:
            self._response.cancel()
        self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Start the response once the head of the request is complete; too much or invalid data ends the connection."""
        self._received_bytes += len(data)
        if self._received_bytes > MOST_BYTES:
            self.abort()
            return
        try:
            self._read(data)
        except h11.RemoteProtocolError:
            self._refuse()

    def close_if_idle(self) -> None:
        """Close where no request is waiting for its response."""
        if self._response is None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self._open.discard(self)  # connection_lost comes in the next round of the loop only
        self._transport.abort()

    def dispensability(self) -> tuple[bool, bool, float]:
        """Return a key: the connection with the greatest one is the least important."""
        return (not is_loopback(self._client[0]), self._response is None, -self._began)

    def _read(self, data: bytes) -> None:
        """Take in the one request; raises RemoteProtocolError where it, or its body, is invalid."""
        self._http.receive_data(data)
        while self._http.their_state in (h11.IDLE, h11.SEND_BODY):
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                return
            if isinstance(event, h11.Request):
                self._method = event.method
                self._response = self._loop.create_task(self._respond(self._scope(event)))

    async def _respond(self, scope: Scope) -> None:
        try:
            await self._app(scope, _no_body, self._send)
        finally:
            self._transport.close()  # what was written is sent before

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start_response(message["status"], list(message["headers"]))
        else:
            body = b"" if self._method == b"HEAD" else message.get("body", b"")
            self._write(h11.Data(data=body))
            if not message.get("more_body", False):
                self._write(h11.EndOfMessage())

    def _refuse(self) -> None:
        """Respond 400, unless another response has begun."""
        if self._response is not None:
            self._response.cancel()
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            self._start_response(HTTPStatus.BAD_REQUEST, [*headers, (b"content-length", b"%d" % len(_INVALID))])
            self._write(h11.Data(data=_INVALID))
            self._write(h11.EndOfMessage())
        self._transport.close()

    def _start_response(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._write(h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode()))

    def _write(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        self._transport.write(self._http.send(event) or b"")

    def _scope(self, request: h11.Request) -> Scope:
        path, _, query = request.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.http_version.decode("ascii"),
            "method": request.method.decode("ascii"),
            "scheme": "http",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": list(request.headers),
            "client": self._client,
            "server": None,
        }


async def _no_body() -> dict[str, Any]:
    return {"type": "http.disconnect"}
