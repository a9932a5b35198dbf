"""The routes of the gate: its webhooks, `/livez`, and its page, metrics and facts for whom `web.access` lets in."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from itertools import product
from typing import Final
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from backupd.gate.api import deploys_response
from backupd.gate.delivery import MAX_BODY_BYTES, Ignored, Refused, digest_of, read_delivery
from backupd.gate.engine import Engine
from backupd.gate.metrics import metrics_response
from backupd.gate.model import Deploy, Gate
from backupd.gate.page import page_response
from backupd.log import Event, EventLog
from backupd.system.in_thread import in_thread
from backupd.system.os_errors import os_error_hint, os_error_text
from backupd.web.access import Guesses
from backupd.web.cached_response import CachedResponse, describe_error
from backupd.web.connection import BodyTooLarge, read_body
from backupd.web.localizer import LANGUAGES, Language
from backupd.web.page import timeout_page
from backupd.web.responses import (
    WebResponse,
    internal_error_response,
    livez_response,
    text_response,
    timeout_response,
)
from backupd.web.routes import CACHE_S, TIMEOUT_S, Guard, as_response, get_route, http_app, page_kind

_SMALL_BYTES: Final = 256 << 10  # nearly all pushes; of larger bodies only a few are read at a time
_MOST_LARGE: Final = 4
_LOGGED_EVERY_S: Final = 60.0
_TOO_LARGE: Final = f"the body has more than {MAX_BODY_BYTES >> 20} MiB: push fewer commits at a time"


@dataclass(frozen=True, slots=True)
class PageContext:
    """What the page shows beside the gates themselves."""

    name: str
    zone: ZoneInfo
    docs_url: str
    clock: Callable[[], datetime]


class Hooks:
    """The webhooks of the gates: a signed push is durable before it is answered with 202."""

    def __init__(self, gates: Mapping[str, tuple[Gate, Engine]], log: EventLog) -> None:
        self._gates, self._log = gates, log
        self._guesses = Guesses()
        self._large = threading.BoundedSemaphore(_MOST_LARGE)
        self._refused_at: dict[str, float] = {}

    async def answer(self, request: Request) -> Response:
        """Answer a POST to `/hooks/NAME`."""
        found = self._gates.get(request.path_params["name"])
        if found is None:
            return as_response(text_response(HTTPStatus.NOT_FOUND, HTTPStatus.NOT_FOUND.phrase), request)
        try:
            return as_response(await self._answer(request, *found), request)
        except BodyTooLarge:
            return as_response(text_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE), request)
        except Exception as error:  # noqa: BLE001 - the log has the details; the client must not see them
            self._log.error(Event.HTTP_FAILED, describe_error(error))
            return as_response(internal_error_response(), request)

    async def _answer(self, request: Request, gate: Gate, engine: Engine) -> WebResponse:
        client = request.client.host if request.client else ""
        await asyncio.sleep(self._guesses.delay_s(client))
        is_small = int(request.headers.get("content-length", MAX_BODY_BYTES)) <= _SMALL_BYTES
        if not is_small and not self._large.acquire(blocking=False):
            return text_response(HTTPStatus.SERVICE_UNAVAILABLE, "too many large requests: try again later")
        try:
            body = await read_body(request.scope, request.receive, MAX_BODY_BYTES)
        finally:
            if not is_small:
                self._large.release()
        headers = list(request.headers.raw)
        return await asyncio.wrap_future(in_thread(lambda: self._accept(gate, engine, headers, body, client)))

    def _accept(
        self, gate: Gate, engine: Engine, headers: Sequence[tuple[bytes, bytes]], body: bytes, client: str
    ) -> WebResponse:
        push = read_delivery(gate, headers, body)
        if isinstance(push, Refused):
            return self._refuse(gate, push, client)
        if isinstance(push, Ignored):
            return self._ignore(gate, push)
        try:
            found = engine.receive(push, digest_of(body))
        except OSError as error:
            what = f"{gate.name}: a push cannot be recorded, and is not deployed: {os_error_text(error)}"
            self._log.error(Event.PUSH_REFUSED, what, hint=os_error_hint(error), gate=gate.name)
            text = "the push cannot be recorded: see the log of the gate, then deliver it again"
            return text_response(HTTPStatus.INSUFFICIENT_STORAGE, text)
        if isinstance(found, Ignored):
            return self._ignore(gate, found)
        deploy = found.deploy
        if not found.new:
            return text_response(HTTPStatus.OK, f"{deploy.id}: {deploy.state}; this push was received before")
        return text_response(HTTPStatus.ACCEPTED, f"{deploy.id}: {deploy.state}")

    def _refuse(self, gate: Gate, refused: Refused, client: str) -> WebResponse:
        """Answer a request that is not accepted; anyone can send one, so that not each is logged."""
        if refused.unsigned:
            self._guesses.add(client)
        now = time.monotonic()
        if now - self._refused_at.get(gate.name, -_LOGGED_EVERY_S) >= _LOGGED_EVERY_S or not refused.unsigned:
            self._refused_at[gate.name] = now
            what = f"{gate.name}: a request from {client} was refused: {refused.reason}"
            self._log.warning(Event.PUSH_REFUSED, what, gate=gate.name)
        return text_response(refused.status, refused.reason)

    def _ignore(self, gate: Gate, ignored: Ignored) -> WebResponse:
        self._log.info(Event.PUSH_IGNORED, f"{gate.name}: a request was ignored: {ignored.reason}", gate=gate.name)
        return text_response(HTTPStatus.OK, f"ignored: {ignored.reason}")


def make_app(
    gates: Mapping[str, tuple[Gate, Engine]], token: str | None, context: PageContext, log: EventLog
) -> ASGIApp:
    """Return the app of the gates; `token` is asked for where it is set, but for webhooks and `/livez`."""

    def on_error(what: str) -> None:
        log.error(Event.HTTP_FAILED, what)

    def cached(compute: Callable[[], WebResponse], on_timeout: WebResponse) -> CachedResponse:
        return CachedResponse(compute, on_timeout, on_error, cache_s=CACHE_S, timeout_s=TIMEOUT_S)

    def page(language: Language, refreshing: bool) -> WebResponse:  # noqa: FBT001 - of this function alone
        deploys = _deploys(gates)
        return page_response(
            values,
            deploys,
            language,
            context.clock(),
            context.zone,
            outputs=_outputs(gates, deploys),
            name=context.name,
            docs_url=context.docs_url,
            refreshing=refreshing,
        )

    def facts() -> WebResponse:
        deploys = _deploys(gates)
        return deploys_response(values, deploys, context.clock(), outputs=_outputs(gates, deploys))

    values = tuple(gate for gate, _ in gates.values())
    livez = cached(lambda: livez_response(_dead(gates)), timeout_response("alive", TIMEOUT_S))
    unanswered = timeout_response("answered", TIMEOUT_S)
    metrics = cached(lambda: metrics_response(values, _deploys(gates), stopped=_stopped(gates)), unanswered)
    api = cached(facts, unanswered)
    pages = {
        kind: cached(lambda kind=kind: page(*kind), timeout_page(TIMEOUT_S, kind[0]))  # type: ignore[misc]
        for kind in product(LANGUAGES, (False, True))
    }
    guard = Guard(token)
    return http_app(
        Route("/hooks/{name}", Hooks(gates, log).answer, methods=["POST"]),
        get_route("/livez", lambda _: livez, on_error, None),
        get_route("/metrics", lambda _: metrics, on_error, guard),
        get_route("/api/deploys", lambda _: api, on_error, guard),
        get_route("/", lambda request: pages[page_kind(request)], on_error, guard),
    )


def _deploys(gates: Mapping[str, tuple[Gate, Engine]]) -> tuple[Deploy, ...]:
    return tuple(deploy for _, engine in gates.values() for deploy in engine.history.deploys())


def _outputs(gates: Mapping[str, tuple[Gate, Engine]], deploys: Sequence[Deploy]) -> dict[str, str]:
    """Return what the tests of each deploy printed, by its id."""
    tested = (one for one in deploys if any(step.name == "tests" for step in one.steps))
    return {one.id: gates[one.gate][1].history.output(one.id) for one in tested}


def _stopped(gates: Mapping[str, tuple[Gate, Engine]]) -> frozenset[str]:
    return frozenset(name for name, (_, engine) in gates.items() if not engine.alive)


def _dead(gates: Mapping[str, tuple[Gate, Engine]]) -> tuple[str, ...]:
    return tuple(f"the thread of the gate {name} has ended" for name in sorted(_stopped(gates)))
