"""One HTTP request, limited in time and in size; its errors do not name the URL, which may be a secret."""

import http.client
import threading
import urllib.request
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from email.message import Message
from typing import IO, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from backupd.formatting import printable
from backupd.masking import without_secrets

LONGEST_BODY: Final = 64 << 10
_LONGEST_WORDS: Final = 200
_HEADERS: Final = {"User-Agent": "backupd", "Accept": "*/*"}


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
        return self.status // 100 == http.client.OK // 100

    def words(self, secret: str = "") -> str:
        """Return the status and the beginning of the body in one line, with all parts of `secret`, a URL, masked."""
        said = printable(without_secrets(self.body.decode(errors="replace"), secret))
        return f"answered {self.status}" + (f": {said}" if said and not said.startswith("<") else "")


def send_request(url: str, body: bytes | None = None, *, timeout_s: float, direct: bool = False) -> HttpResponse:
    """GET `url`, or POST `body` to it; follow up to three redirections with that method, never from https to http.

    With `direct` no redirection is followed and no proxy is used, as for an app on the same network. The request runs
    in a thread, which is abandoned after `timeout_s`: the resolver, a proxy or a slow server may block it for longer.
    Raises RequestFailed.
    """
    answer: Future[HttpResponse] = Future()
    thread = threading.Thread(target=_answer, args=(url, body, timeout_s, direct, answer), name="call", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise RequestFailed(str(error)) from None
    try:
        return answer.result(timeout_s)
    except TimeoutError:
        raise RequestFailed(f"no answer within {timeout_s:g} s") from None


def _answer(url: str, body: bytes | None, timeout_s: float, direct: bool, answer: Future[HttpResponse]) -> None:  # noqa: FBT001 - see `send_request`
    try:
        answer.set_result(_call(url, body, timeout_s, _opener(direct=direct)))
    except BaseException as error:  # noqa: BLE001 - the caller gets it
        answer.set_exception(error if isinstance(error, RequestFailed) else RequestFailed(_why(error)))


def _call(url: str, body: bytes | None, timeout_s: float, opener: urllib.request.OpenerDirector) -> HttpResponse:
    headers = _HEADERS if body is None else {**_HEADERS, "Content-Type": "text/plain; charset=utf-8"}
    request = urllib.request.Request(url, body, dict(headers))  # noqa: S310 - the opener supports http and https only
    try:
        response = opener.open(request, timeout=timeout_s)
    except HTTPError as error:
        response = error
    with response:
        names = {name.lower(): value for name, value in response.headers.items()}
        return HttpResponse(response.status, names, response.read(LONGEST_BODY))


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
        """Return the request for the new URL. Raises RequestFailed where that is not https, or http after http."""
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            fp.close()
            raise RequestFailed(f"it redirects from {req.type} to {scheme}, which is refused")
        return urllib.request.Request(newurl, req.data, dict(req.headers))  # noqa: S310 - the scheme is checked


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
