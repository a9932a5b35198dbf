"""The routes: `/livez` and `/health` for everyone; `/metrics`, the page `/` and `/api/status` where `access` allows.

Those on which a client asks for something to be done are in `web.door`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from itertools import product
from typing import Final

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backupd.status.history import StatusService
from backupd.web import responses
from backupd.web.access import Guesses, refusal
from backupd.web.cached_response import CachedResponse, SharedValue, describe_error
from backupd.web.door import Door, door_routes
from backupd.web.localizer import LANGUAGES, Language, choose_language, quality
from backupd.web.metrics import metrics_response
from backupd.web.page import ERROR_PAGES, error_page, page_response, timeout_page
from backupd.web.responses import WebResponse, text_response, timeout_response

# Rendered at import: an error in the status page must not prevent them.
_PAGES: Final = {(status, language): error_page(status, language) for status in ERROR_PAGES for language in LANGUAGES}
Choose = Callable[[Request], CachedResponse]
CACHE_S = 2.0
TIMEOUT_S = 5.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",  # one request a connection: no client holds one for longer than a response takes
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_app(
    service: StatusService,
    token: str | None,
    on_error: Callable[[str], None],
    *,
    door: Door | None = None,
    cache_s: float = CACHE_S,
    timeout_s: float = TIMEOUT_S,
) -> ASGIApp:
    """Return the app that serves the status of `service`, and `door`, if clients may request backups.

    Each kind of response is computed in a thread, once at a time, and again only when the last one is `cache_s` old, or
    four times as old as it took; a client that has waited for `timeout_s` gets 503. `on_error` is called with one line
    for each internal error, in any thread.
    """

    def cached(compute: Callable[[], WebResponse], on_timeout: WebResponse) -> CachedResponse:
        return CachedResponse(compute, on_timeout, on_error, cache_s=cache_s, timeout_s=timeout_s)

    def route(path: str, choose: Choose, *, guarded: bool) -> Route:
        return get_route(path, choose, on_error, guard if guarded else None)

    def page(language: Language, refreshing: bool) -> CachedResponse:  # noqa: FBT001 - of this function alone
        made = partial(page_response, language=language, refreshing=refreshing)
        return cached(lambda: made(history.get()), timeout_page(timeout_s, language))

    history, guard = SharedValue(service.history, cache_s=cache_s), Guard(token)
    livez = cached(lambda: responses.livez_response(service.alive()), timeout_response("alive", timeout_s))
    health = cached(lambda: responses.health_response(service.health()), timeout_response("healthy", timeout_s))
    metrics = cached(lambda: metrics_response(service.status()), timeout_response("answered", timeout_s))
    status = cached(lambda: responses.status_response(history.get()), timeout_response("answered", timeout_s))
    pages = {kind: page(*kind) for kind in product(LANGUAGES, (False, True))}

    return http_app(
        route("/livez", lambda _: livez, guarded=False),
        route("/health", lambda _: health, guarded=False),
        route("/metrics", lambda _: metrics, guarded=True),
        route("/api/status", lambda _: status, guarded=True),
        route("/", lambda request: pages[page_kind(request)], guarded=True),
        *(door_routes(door, guard.guesses, on_error) if door else ()),
    )


class Guard:
    """Lets in who may read a route (see `web.access`), and slows guesses at the token."""

    def __init__(self, token: str | None) -> None:
        self._token = token
        self.guesses = Guesses()

    async def refusal(self, request: Request) -> WebResponse | None:
        """Return the response that refuses the request, `None` where it is allowed; after a while where it guesses."""
        client = request.client.host if request.client else ""
        is_guess = bool(self._token) and "authorization" in request.headers
        await asyncio.sleep(self.guesses.delay_s(client) if is_guess else 0)
        refused = refusal(client, request.headers.raw, self._token)
        if is_guess and refused:
            self.guesses.add(client)
        return refused


def get_route(path: str, choose: Choose, on_error: Callable[[str], None], guard: Guard | None) -> Route:
    """Return the route that answers GET with the response that `choose` returns; without `guard`, to everyone."""

    async def endpoint(request: Request) -> Response:
        try:
            refused = await guard.refusal(request) if guard else None
            return as_response(refused or await choose(request).get(), request)
        except Exception as error:  # noqa: BLE001 - the log has the details; the client must not see them
            on_error(describe_error(error))
            return as_response(responses.internal_error_response(), request)

    return Route(path, endpoint, methods=["GET"])


def http_app(*routes: Route) -> ASGIApp:
    """Return the app of `routes`: errors are answered as the client can read them, and no answer is stored."""
    app = Starlette(routes=routes, exception_handlers={HTTPException: _routing_error, Exception: _send_error})
    app.router.redirect_slashes = False
    return _with_headers(app)


def page_kind(request: Request) -> tuple[Language, bool]:
    """Return in which language the client wants a page, and whether that loads itself again."""
    language = choose_language(request.headers.get("accept-language", ""))
    return language, request.query_params.get("refresh") != "off"


def as_response(response: WebResponse, request: Request) -> Response:
    """Return `response`; a browser gets a page instead of an error in plain text, and instead of any error of `/`."""
    page = _PAGES.get((response.status, page_kind(request)[0]))
    may_be_page = response.media_type != "application/json" or request.url.path == "/"
    if page and may_be_page and _wants_html(request.headers.get("accept", "")):
        response = replace(page, headers={**response.headers, **page.headers})
    headers = {"Content-Type": response.media_type, **response.headers}
    return Response(response.body, status_code=response.status, headers=headers)


async def _routing_error(request: Request, error: Exception) -> Response:
    """Return the 404 and 405 that routing raises."""
    assert isinstance(error, HTTPException)  # noqa: S101 - for mypy: the table of handlers registers it for this type
    status = HTTPStatus(error.status_code)
    return as_response(text_response(status, status.phrase, headers=error.headers), request)


async def _send_error(request: Request, _: Exception) -> Response:
    """Return 500; only sending can still fail, to a client that has disconnected."""
    return as_response(responses.internal_error_response(), request)


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


def _wants_html(accept: str) -> bool:
    """Return whether `accept` (RFC 9110 §12.5.1) names HTML, as browsers do; other clients send `*/*`."""
    for part in accept.split(","):
        media_type, _, parameters = part.partition(";")
        if media_type.strip().lower() == "text/html":
            return quality(parameters) > 0
    return False
