"""One HTTP request, limited in time and in size; its errors do not name the URL, which may be a secret."""

import http.client
import threading
import time
import urllib.request
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.message import Message
from typing import IO, Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from backupd.formatting import human_bytes, printable
from backupd.masking import without_secrets

LONGEST_BODY: Final = 64 << 10
_LONGEST_WORDS: Final = 200
_HEADERS: Final = {"User-Agent": "backupd", "Accept": "*/*"}
_HARMLESS: Final = frozenset({*_HEADERS, "Content-Type"})


class RequestFailed(Exception):
    """There was no answer; the message may be logged, and names no URL."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The response of any status: names of `headers` in lower case, at most `LONGEST_BODY` bytes of the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether it is a 2xx."""
        return _is_success(self.status)

    def words(self, secret: str = "") -> str:
        """Return the status and the beginning of the body in one line, with all parts of `secret`, a URL, masked."""
        said = printable(without_secrets(self.body.decode(errors="replace"), secret))
        return f"answered {self.status}" + (f": {said}" if said and not said.startswith("<") else "")


def _is_success(status: int) -> bool:
    return status // 100 == http.client.OK // 100


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request; its URL and its headers may be secrets.

    A body in pieces needs a Content-Length among the headers. The body of a 2xx goes to `into`, where that is set.
    """

    url: str = field(repr=False)
    body: bytes | Iterable[bytes] | None = field(default=None, repr=False)
    method: str | None = None  # None: GET, or POST where there is a body
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    into: IO[bytes] | None = None
    limit_bytes: int = LONGEST_BODY  # of the body of the response: the rest is not read, or, with `into`, refused


def send_request(request: HttpRequest, *, timeout_s: float, direct: bool = False) -> HttpResponse:
    """Send `request`; follow up to three redirections with its method, never from https to http.

    Its headers do not follow to another host, and a body in pieces is not sent twice. With `direct` no redirection is
    followed and no proxy is used, as for an app on the same network. The request runs in a thread, which is abandoned
    after `timeout_s`: the resolver, a proxy or a slow server may block it for longer. Raises RequestFailed.
    """
    answer: Future[HttpResponse] = Future()
    give_up = time.monotonic() + timeout_s
    thread = threading.Thread(target=_answer, args=(request, give_up, direct, answer), name="call", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise RequestFailed(str(error)) from None
    try:
        return answer.result(timeout_s)
    except TimeoutError:
        raise RequestFailed(f"no answer within {timeout_s:g} s") from None


def _answer(request: HttpRequest, give_up: float, direct: bool, answer: Future[HttpResponse]) -> None:  # noqa: FBT001 - see `send_request`
    try:
        answer.set_result(_call(request, give_up, _opener(direct=direct)))
    except BaseException as error:  # noqa: BLE001 - the caller gets it
        answer.set_exception(error if isinstance(error, RequestFailed) else RequestFailed(_why(error)))


def _call(request: HttpRequest, give_up: float, opener: urllib.request.OpenerDirector) -> HttpResponse:
    kind = {} if request.body is None else {"Content-Type": "text/plain; charset=utf-8"}
    body: Any = request.body  # an iterable as well, which the type of the standard library lacks
    message = urllib.request.Request(request.url, body, {**_HEADERS, **kind}, method=request.method)  # noqa: S310 - the opener supports http and https only
    for name, value in request.headers.items():
        message.add_header(name, value)
    try:
        response = opener.open(message, timeout=max(0.001, give_up - time.monotonic()))
    except HTTPError as error:
        response = error
    with response:
        names = {name.lower(): value for name, value in response.headers.items()}
        if request.into is not None and _is_success(response.status):
            _receive(response, request.into, request.limit_bytes, give_up)
            return HttpResponse(response.status, names, b"")
        return HttpResponse(
            response.status, names, response.read(LONGEST_BODY if request.into else request.limit_bytes)
        )


def _receive(response: IO[bytes], into: IO[bytes], limit_bytes: int, give_up: float) -> None:
    """Write the body to `into`; once nobody waits for it any longer, nothing more is written."""
    received = 0
    while piece := response.read(LONGEST_BODY):
        received += len(piece)
        if received > limit_bytes:
            raise RequestFailed(f"the answer has more than {human_bytes(limit_bytes)}")
        if time.monotonic() >= give_up:
            raise RequestFailed("the answer took too long")
        into.write(piece)


def _why(error: BaseException) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, OSError):
        what = getattr(reason, "verify_message", "") or reason.strerror or str(reason) or type(reason).__name__
        return printable(what[:_LONGEST_WORDS])
    if isinstance(reason, http.client.HTTPException) and not isinstance(reason, http.client.InvalidURL):
        return f"the answer is not HTTP ({type(reason).__name__})"
    return f"the URL cannot be used ({type(reason).__name__})"  # its message may quote the URL


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Repeats the request at the new URL: the standard library drops the body, and rejects 307 for a POST."""

    max_redirections = 3

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,  # noqa: ARG002 - the base class's signature
        msg: str,  # noqa: ARG002 - as above
        headers: Message,  # noqa: ARG002 - as above
        newurl: str,
    ) -> urllib.request.Request:
        """Return the request for the new URL, to another host without the headers that may be secrets.

        Raises RequestFailed where that is not https, or http after http, and where the body cannot be sent again.
        """
        there, here = urlsplit(newurl), urlsplit(req.full_url)
        scheme = there.scheme
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            fp.close()
            raise RequestFailed(f"it redirects from {req.type} to {scheme}, which is refused")
        if not isinstance(req.data, bytes | None):
            fp.close()
            raise RequestFailed("it redirects an upload, which is refused")
        same = (there.scheme, there.netloc) == (here.scheme, here.netloc)
        kept = {name: value for name, value in req.headers.items() if same or name.title() in _HARMLESS}
        return urllib.request.Request(newurl, req.data, kept, method=req.get_method())  # noqa: S310 - the scheme is checked


def _opener(*, direct: bool) -> urllib.request.OpenerDirector:
    """Return an opener for HTTP and HTTPS only, through the proxy that the environment names unless `direct`."""
    opener = urllib.request.OpenerDirector()
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ]
    for handler in handlers if direct else [*handlers, urllib.request.ProxyHandler(), _Redirections()]:
        opener.add_handler(handler)
    return opener
