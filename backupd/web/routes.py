"""What is served, and to whom: `/livez` and `/health` to everyone, all else to whoever `access` lets in.

All else is `/metrics`, the status page `/` and the same as JSON, `/api/status`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backupd.status.model import StatusService
from backupd.web import responses
from backupd.web.access import refusal
from backupd.web.api import status_answer
from backupd.web.cached_response import SharedAnswer, describe_error
from backupd.web.metrics import metrics_answer
from backupd.web.page import ERROR_PAGES, error_page, late_page, page_answer
from backupd.web.responses import Answer
from backupd.web.translations import LANGUAGES, Language, choose_language, quality

# Made beforehand: what keeps the status page from being made must not keep these.
_PAGES: Final = {(status, language): error_page(status, language) for status in ERROR_PAGES for language in LANGUAGES}
FRESH_S = 2.0
PATIENCE_S = 5.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",  # one request a connection: nobody can hold one for longer than an answer takes
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(
    service: StatusService,
    token: str | None,
    on_error: Callable[[str], None],
    *,
    fresh_s: float = FRESH_S,
    patience_s: float = PATIENCE_S,
) -> ASGIApp:
    """Return the app that answers for `service`.

    The service is asked in threads, at most once at a time for each kind of answer, and again only when the last one
    is `fresh_s` old; whoever has waited for `patience_s` is told so with 503. `on_error` hears of internal errors, one
    line each, from any thread.
    """

    def shared(work: Callable[[], Answer], late: Answer) -> SharedAnswer:
        return SharedAnswer(work, late, on_error, fresh_s=fresh_s, patience_s=patience_s)

    def page(language: Language) -> SharedAnswer:
        return shared(lambda: page_answer(service.history(), language), late_page(patience_s, language))

    def late(key: str) -> Answer:
        return responses.late(key, patience_s)

    livez = shared(lambda: responses.livez(service.alive()), late("alive"))
    health = shared(lambda: responses.health(service.health()), late("healthy"))
    metrics = shared(lambda: metrics_answer(service.status()), late("answered"))
    status = shared(lambda: status_answer(service.history()), late("answered"))
    pages = {language: page(language) for language in LANGUAGES}

    def route(path: str, choose: Callable[[Request], SharedAnswer], *, guarded: bool) -> Route:
        return Route(path, _endpoint(choose, token, on_error, guarded=guarded), methods=["GET"])

    app = Starlette(
        routes=[
            route("/livez", lambda _: livez, guarded=False),
            route("/health", lambda _: health, guarded=False),
            route("/metrics", lambda _: metrics, guarded=True),
            route("/api/status", lambda _: status, guarded=True),
            route("/", lambda request: pages[_language(request)], guarded=True),
        ],
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return _with_headers(app)


def _language(request: Request) -> Language:
    return choose_language(request.headers.get("accept-language", ""))


def _endpoint(
    choose: Callable[[Request], SharedAnswer], token: str | None, on_error: Callable[[str], None], *, guarded: bool
) -> _Endpoint:
    async def endpoint(request: Request) -> Response:
        try:
            client = request.client.host if request.client else None
            refused = refusal(client, request.headers.raw, token) if guarded else None
            return _response(refused or await choose(request).get(), request)
        except Exception as error:  # noqa: BLE001 - the log says what it was; the client must not see it
            on_error(describe_error(error))
            return _response(responses.internal_error(), request)

    return endpoint


def _response(answer: Answer, request: Request) -> Response:
    """Return `answer`, to a browser as a page where it is an error in plain text, or any error in place of the page."""
    if answer.media_type != "application/json" or request.url.path == "/":
        answer = readable(answer, request.headers.get("accept", ""), _language(request))
    headers = {"Content-Type": answer.media_type, **answer.headers}
    return Response(answer.body, status_code=answer.status, headers=headers)


async def _refused(request: Request, error: Exception) -> Response:
    """Answer 404 and 405, which routing raises."""
    assert isinstance(error, HTTPException)  # noqa: S101 - tells mypy what the table of handlers says
    status = HTTPStatus(error.status_code)
    answer = responses.text(status, status.phrase)
    return _response(Answer(status, answer.media_type, answer.body, error.headers or {}), request)


async def _failed(request: Request, _: Exception) -> Response:
    """Answer what nobody will read: all that can still fail is sending, to a client that has gone."""
    return _response(responses.internal_error(), request)


def _with_headers(app: ASGIApp) -> ASGIApp:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers["Date"] = formatdate(usegmt=True)
            await send(message)

        await app(scope, receive, send_with_headers)

    return wrapped


def readable(answer: Answer, accept: str, language: Language) -> Answer:
    """Return `answer`, or in its place the page that says the same, where `accept` (RFC 9110 §12.5.1) asks for HTML."""
    page = _PAGES.get((answer.status, language))
    if page is None or not _wants_html(accept):
        return answer
    return replace(page, headers={**answer.headers, **page.headers})


def _wants_html(accept: str) -> bool:
    """Tell whether HTML is asked for by name, as browsers do; `*/*` is what everybody else says."""
    for part in accept.split(","):
        media_type, _, parameters = part.partition(";")
        if media_type.strip().lower() == "text/html":
            return quality(parameters) > 0
    return False
