"""One connection of the HTTP server, and the body of its request.

It has one request with a limited body, and ten seconds unless the app extends them. h11 reads the request and writes
the response.
"""

import asyncio
from collections import Counter, deque
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

import h11
from starlette.types import ASGIApp, Message, Receive, Scope

from backupd.web.access import address_of, is_loopback

LIFETIME_S = 10.0
MOST_CONNECTIONS = 64
_HEADER_BYTES: Final = 16 << 10
_UNREAD_BYTES: Final = 64 << 10
_INVALID: Final = b"Invalid HTTP request received."
_TOO_LARGE: Final = b"The body of the request is too large."
_LIFETIME: Final = "backupd.lifetime"
_LINGER_S = 1.0


class BodyTooLarge(Exception):
    """The body of a request has more bytes than its route accepts."""


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """Return the body of a request, empty if it has none. Raises BodyTooLarge, as early as that is known."""
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    body, more = b"", int(announced) <= limit_bytes
    if not more:
        raise BodyTooLarge
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit_bytes:
            raise BodyTooLarge
    return body


def extend_lifetime(scope: Scope, seconds: float) -> None:
    """Let the connection of a request live for `seconds` from now on, in the place of what was left of its lifetime."""
    scope["extensions"][_LIFETIME](seconds)


class Connection(asyncio.Protocol):
    """Reads one request, lets `app` (ASGI 3) respond, and closes.

    `open_connections` holds this one and its kind while they are open; once `end` is set, a new one is closed. The app
    reads the body as it wants, at most `most_body_bytes`; what it has not taken yet is buffered up to 64 KiB. A part of
    a response is sent before the next one is asked for.
    """

    _transport: asyncio.Transport
    _expiry: asyncio.TimerHandle

    def __init__(
        self, app: ASGIApp, open_connections: "set[Connection]", end: asyncio.Event, most_body_bytes: int
    ) -> None:
        self._app = app
        self._open = open_connections
        self._end = end
        self._most_bytes = _HEADER_BYTES + most_body_bytes
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEADER_BYTES)
        self._received_bytes = 0
        self._unread = deque[bytes]()  # parts of the body
        self._arrived, self._writable = asyncio.Event(), asyncio.Event()
        self._writable.set()
        self._has_read_all = False
        self._method = b""
        self._response: asyncio.Task[None] | None = None
        self._began = 0.0
        self._client: tuple[str, int] = ("", 0)
        self.closed = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; close the least important connection if there are too many."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for mypy: a stream has this type
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._client = (peer[0], peer[1]) if peer else self._client
        self._began = self._loop.time()
        self._expiry = self._loop.call_later(LIFETIME_S, transport.abort)
        self._open.add(self)
        if self._end.is_set():  # accepted just before the listener was closed
            self.abort()
        elif len(self._open) > MOST_CONNECTIONS:
            crowds = Counter(connection.address for connection in self._open)
            max(self._open, key=lambda one: one.dispensability(crowds[one.address])).abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """End; nothing is computed for a client that has left."""
        self._expiry.cancel()
        self._open.discard(self)
        if self._response is not None:
            self._response.cancel()
        self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Start the response once the head of the request is complete; too much or invalid data ends the connection."""
        if self._transport.is_closing() or self._has_responded:
            return
        self._received_bytes += len(data)
        if self._received_bytes > self._most_bytes and self._response is not None:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
            return
        try:
            self._read(data)
        except h11.RemoteProtocolError:
            self._refuse(HTTPStatus.BAD_REQUEST, _INVALID)

    def pause_writing(self) -> None:
        """Let the app wait: the client reads more slowly than it sends."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let the app send on."""
        self._writable.set()

    def close_if_idle(self) -> None:
        """Close where no request is waiting for its response."""
        if self._response is None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self._open.discard(self)  # connection_lost comes in the next round of the loop only
        self._transport.abort()

    @property
    def address(self) -> str:
        """Where it comes from."""
        return address_of(self._client[0])

    def dispensability(self, crowd: int) -> tuple[bool, int, bool, float]:
        """Return a key, for one of a `crowd` from one address: the connection with the greatest is least important."""
        return (not is_loopback(self._client[0]), crowd, not self._is_complete, -self._began)

    @property
    def _is_complete(self) -> bool:
        """Whether the whole request has arrived."""
        return self._http.their_state not in (h11.IDLE, h11.SEND_BODY)

    @property
    def _has_responded(self) -> bool:
        return self._http.our_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED, h11.ERROR)

    def _read(self, data: bytes) -> None:
        """Take in the one request; raises RemoteProtocolError where it, or its body, is invalid."""
        self._http.receive_data(data)
        while not self._is_complete:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                break
            if isinstance(event, h11.Request):
                _require_plain(event)
                self._method = event.method
                self._response = self._loop.create_task(self._respond(self._scope(event)))
            elif isinstance(event, h11.Data):
                self._unread.append(bytes(event.data))
        self._arrived.set()
        if sum(map(len, self._unread)) > _UNREAD_BYTES:
            self._transport.pause_reading()

    async def _receive(self) -> Message:
        """Return the next part of the body; after its end, wait for the end of the connection."""
        if self._http.they_are_waiting_for_100_continue and self._http.our_state is h11.SEND_RESPONSE:
            self._write(h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[]))
        while not self._unread and not self._is_complete:
            self._arrived.clear()
            await self._arrived.wait()
        if self._has_read_all:
            await asyncio.shield(self.closed)
            return {"type": "http.disconnect"}
        body = b"".join(self._unread)
        self._unread.clear()
        self._transport.resume_reading()
        self._has_read_all = self._is_complete
        return {"type": "http.request", "body": body, "more_body": not self._has_read_all}

    async def _respond(self, scope: Scope) -> None:
        try:
            await self._app(scope, self._receive, self._send)
        finally:
            self._close()

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start_response(message["status"], list(message["headers"]))
            return
        body = b"" if self._method == b"HEAD" else message.get("body", b"")
        self._write(h11.Data(data=body))
        if message.get("more_body", False):
            await self._writable.wait()
        else:
            self._write(h11.EndOfMessage())

    def _refuse(self, status: HTTPStatus, why: bytes) -> None:
        """Respond with an error, unless another response has begun."""
        if self._response is not None:
            self._response.cancel()
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            self._start_response(status, [*headers, (b"content-length", b"%d" % len(why))])
            self._write(h11.Data(data=why), h11.EndOfMessage())
        self._close()

    def _close(self) -> None:
        """Close once all is sent; a client that is still sending first reads the response, which a reset would drop."""
        if self._http.their_state is not h11.SEND_BODY or self._transport.is_closing():
            self._transport.close()
            return
        self._transport.write_eof()
        self._extend(min(_LINGER_S, self._expiry.when() - self._loop.time()))
        self._transport.resume_reading()

    def _extend(self, seconds: float) -> None:
        self._expiry.cancel()
        self._expiry = self._loop.call_later(seconds, self._transport.abort)

    def _start_response(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._write(h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode()))

    def _write(self, *events: h11.InformationalResponse | h11.Response | h11.Data | h11.EndOfMessage) -> None:
        for event in events:
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
            "extensions": {_LIFETIME: self._extend},
        }


def _require_plain(request: h11.Request) -> None:
    """Refuse a large head, which h11 accepts in one piece, and a length that is given in two ways.

    In the latter a proxy may have seen another request (RFC 9112 §6.1). Raises RemoteProtocolError.
    """
    size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
    names = {name for name, _ in request.headers}
    if size > _HEADER_BYTES or {b"transfer-encoding", b"content-length"} <= names:
        raise h11.RemoteProtocolError("a large head, or both Transfer-Encoding and Content-Length")
