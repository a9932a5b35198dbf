"""A real HTTP server in a thread that records requests, and answers, hangs or hangs up as a test wants."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from support.daemon import wait_until


@dataclass(frozen=True)
class ReceivedRequest:
    """A request that was received."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, strict_parsing=True, keep_blank_values=True))

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """Return a header, whose name may be written in any way."""
        return next((value for one, value in self.headers.items() if one.lower() == name.lower()), None)


@dataclass(frozen=True)
class CannedResponse:
    """The response to send; status 0 hangs, -1 closes the connection."""

    status: int = 200
    body: bytes = b"OK"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # bytes of the body, after which the connection is closed


HANG = CannedResponse(0)
HANG_UP = CannedResponse(-1)
Answering = Callable[[ReceivedRequest], CannedResponse]


@dataclass
class RecordingServer:
    """The running server; `answering` decides on each request."""

    answering: Answering = lambda _asked: CannedResponse()
    requests: list[ReceivedRequest] = field(default_factory=list)
    port: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = "", scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def wait_for(self, count: int, timeout_s: float = 60) -> list[ReceivedRequest]:
        """Wait until there were so many requests, and return them all."""
        wait_until(
            lambda: len(self.requests) >= count, f"request {count} ({[one.target for one in self.requests]})", timeout_s
        )
        return self.requests


@contextmanager
def recording_server(answering: Answering | CannedResponse | None = None) -> Iterator[RecordingServer]:
    """Serve on a free port while the block runs."""
    listener = RecordingServer()
    if isinstance(answering, CannedResponse):
        fixed = answering
        listener.answering = lambda _asked: fixed
    elif answering is not None:
        listener.answering = answering

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            asked = ReceivedRequest(self.command, self.path, dict(self.headers.items()), self.rfile.read(length))
            listener.requests.append(asked)
            said = listener.answering(asked)
            if said is HANG:
                listener.released.wait(60)
            if said.status <= 0:
                self.close_connection = True
                return
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said.body[: said.cut_after])
            if said.cut_after is not None:
                self.close_connection = True

        do_GET = do_POST = do_HEAD = do_PUT = _serve  # noqa: N815 - the base class's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    listener.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        listener.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
