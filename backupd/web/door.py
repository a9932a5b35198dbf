"""The door: clients with a token of its own request backups, see how these end, and download archives (docs/api.md).

The token counts only as a bearer token: a browser sends none by itself, so that no other site can use it.
"""

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http import HTTPStatus
from math import ceil
from pathlib import Path
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backupd.errors import CopyCorrupt, GenerationMissing, ManifestInvalid, UsageError
from backupd.formatting import parse_span
from backupd.remote.run import BACKUPS, LONGEST_KEY, LONGEST_WAIT_S, RUNS, RemoteRun, run_facts
from backupd.system.in_thread import in_thread
from backupd.tasks.requests import PinRequest, requested_pin
from backupd.web.access import Guesses, bearer_refusal
from backupd.web.archive_response import OpenArchive, open_response
from backupd.web.cached_response import describe_error
from backupd.web.connection import LIFETIME_S, BodyTooLarge, extend_lifetime, read_body
from backupd.web.responses import WebResponse, error_response, internal_error_response, json_response
from backupd.web.strict_json import read_object

MOST_BODY_BYTES: Final = 16 << 10
MOST_WAITING: Final = 8
MOST_DOWNLOADS: Final = 2
_OPENAPI: Final = Path(__file__).with_name("openapi.json")
_LONGEST_PIN: Final = timedelta(days=36525)
_KEY: Final = re.compile(rb"[!-~]{1,%d}" % LONGEST_KEY)
_WAIT: Final = re.compile(r"\d{1,2}", re.ASCII)
_REASON: Final = "requested over HTTP"
_FIELDS: Final = 'the fields are sources (a list of names), label (text) and pin (true, false or a span such as "30d")'


class RequestRefused(Exception):
    """A request that is answered with an error; the client may send it again after `retry_after_s`."""

    def __init__(self, status: HTTPStatus, error: str, hint: str, retry_after_s: float | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.hint, self.retry_after_s = status, error, hint, retry_after_s

    def response(self) -> WebResponse:
        """Return the response."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(ceil(self.retry_after_s))}
        return error_response(self.status, self.error, self.hint, headers)


@dataclass(frozen=True, slots=True)
class WantedBackup:
    """What a client wants: sources by name (none: all), and how their generations are pinned."""

    sources: tuple[str, ...] = ()
    pin: PinRequest | None = None


class Backups(Protocol):
    """Takes requests for backups, from any thread."""

    def request(self, wanted: WantedBackup, key: str, client: str) -> RemoteRun:
        """Queue the backups, unless a request with the same `key` has. Raises RequestRefused."""

    def find(self, run_id: str) -> RemoteRun | None:
        """Return how a run stands, None for an unknown one; at once. Raises RequestRefused where it will not run."""

    def done(self, run_id: str) -> Future[None]:
        """Return what is done as soon as the run of that id has ended, or is known not to."""


@dataclass(frozen=True, slots=True)
class Door:
    """What is behind the door, and who may enter: without `download_token` no archive can be downloaded."""

    backups: Backups
    open_archive: OpenArchive
    backup_token: str = field(repr=False)
    download_token: str | None = field(default=None, repr=False)


Handler = Callable[[Request], Awaitable[Response]]


def door_routes(door: Door, guesses: Guesses, on_error: Callable[[str], None]) -> list[Route]:
    """Return the routes. `on_error` is called with one line for each internal error, in any thread."""

    def route(path: str, method: str, token: str, handle: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                return await _guarded(request, token, guesses) or await handle(request)
            except RequestRefused as refused:
                return _response(refused.response())
            except Exception as error:  # noqa: BLE001 - the log has the details; the client must not see them
                on_error(describe_error(error))
                return _response(internal_error_response())

        return Route(path, endpoint, methods=[method])

    async def describe(_: Request) -> Response:
        return description

    handlers = _Handlers(door)
    description = Response(_OPENAPI.read_bytes(), media_type="application/json")  # no more than docs/openapi.json
    routes = [
        Route("/api/openapi.json", describe, methods=["GET"]),
        route(BACKUPS, "POST", door.backup_token, handlers.request_backup),
        route(f"{RUNS}/{{run_id}}", "GET", door.backup_token, handlers.show_run),
    ]
    if door.download_token:
        path = "/api/generations/{generation}/archive"
        routes.append(route(path, "GET", door.download_token, handlers.send_archive))
    return routes


class _Handlers:
    """Answers requests that have their token; each raises RequestRefused."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)
        self._downloads = threading.BoundedSemaphore(MOST_DOWNLOADS)

    async def request_backup(self, request: Request) -> Response:
        """Request a backup: how its run stands."""
        wanted, key = read_wanted(await _body(request)), _key(request)
        client = request.client.host if request.client else "an unknown address"
        run = await asyncio.wrap_future(in_thread(lambda: self._door.backups.request(wanted, key, client)))
        return _run_response(HTTPStatus.ACCEPTED, run)

    async def show_run(self, request: Request) -> Response:
        """Return how a run stands, as soon as it has ended or the client has waited for as long as it wants.

        When many wait already, at once.
        """
        run_id, wait_s, backups = request.path_params["run_id"], _wait_s(request), self._door.backups
        run = _known(backups.find(run_id))
        if run.state != "ended" and wait_s and self._waiting.acquire(blocking=False):
            try:
                extend_lifetime(request.scope, wait_s + LIFETIME_S)
                await asyncio.wait({asyncio.wrap_future(backups.done(run_id))}, timeout=wait_s)
            finally:
                self._waiting.release()
            run = _known(backups.find(run_id))
        return _run_response(HTTPStatus.OK, run)

    async def send_archive(self, request: Request) -> Response:
        """Send the archive of a verified generation."""
        if not self._downloads.acquire(blocking=False):
            raise RequestRefused(
                HTTPStatus.TOO_MANY_REQUESTS, f"{MOST_DOWNLOADS} downloads run already", "wait for one to end", 10.0
            )
        generation, release = request.path_params["generation"], self._downloads.release
        try:
            return await open_response(generation, self._door.open_archive, release)
        except GenerationMissing:
            raise RequestRefused(HTTPStatus.NOT_FOUND, "there is no such generation", "see backupd list") from None
        except (CopyCorrupt, ManifestInvalid) as error:
            raise RequestRefused(HTTPStatus.CONFLICT, error.message, error.hint) from None
        except OSError as error:
            what = f"the archive cannot be read: {error.strerror}"
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, what, "see backupd doctor", 10.0) from None


async def _guarded(request: Request, token: str, guesses: Guesses) -> Response | None:
    """Return the refusal of a request without `token`; the more wrong ones came from there, the later."""
    client = request.client.host if request.client else ""
    is_guess = "authorization" in request.headers
    await asyncio.sleep(guesses.delay_s(client) if is_guess else 0)
    refused = bearer_refusal(request.headers.raw, token)
    if refused and is_guess:
        guesses.add(client)
    return _response(refused) if refused else None


async def _body(request: Request) -> bytes:
    """Return the body, which is JSON where there is any. Raises RequestRefused."""
    try:
        body = await read_body(request.scope, request.receive, MOST_BODY_BYTES)
    except BodyTooLarge:
        what = f"the body has more than {MOST_BODY_BYTES >> 10} KiB"
        raise RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, what, _FIELDS) from None
    kinds = request.headers.getlist("content-type")
    is_json = [kind.partition(";")[0].strip().lower() for kind in kinds] == ["application/json"]
    if body and (not is_json or "content-encoding" in request.headers):
        raise RequestRefused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body is not JSON", "send it with Content-Type: application/json"
        )
    return body


def read_wanted(body: bytes) -> WantedBackup:
    """Return what the body of a request asks for. Raises RequestRefused."""
    try:
        facts = read_object(body) if body else {}
    except ValueError as error:
        raise _unusable(f"the body cannot be used: {error}") from None
    if facts.keys() - {"sources", "label", "pin"}:
        raise _unusable("unknown field")
    sources, label = facts.get("sources"), facts.get("label")
    if sources is not None and not (isinstance(sources, list) and sources and all(map(_is_text, sources))):
        raise _unusable("sources is not a list of names")
    if label is not None and not _is_text(label):
        raise _unusable("label is not text")
    try:
        return WantedBackup(tuple(sources or ()), requested_pin(_REASON, label or "", _pin(facts.get("pin"))))
    except UsageError as error:
        raise RequestRefused(HTTPStatus.UNPROCESSABLE_ENTITY, error.message, error.hint) from None


def _pin(value: object) -> bool | timedelta | None:
    if value is None or isinstance(value, bool):
        return value
    try:
        span = parse_span(value) if isinstance(value, str) else timedelta()
    except ValueError:
        span = timedelta()
    if not timedelta() < span <= _LONGEST_PIN:
        raise _unusable("pin is neither true, false nor a span")
    return span


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _unusable(error: str) -> RequestRefused:
    return RequestRefused(HTTPStatus.UNPROCESSABLE_ENTITY, error, _FIELDS)


def _key(request: Request) -> str:
    """Return the Idempotency-Key, empty for none. Raises RequestRefused."""
    values = [value for name, value in request.headers.raw if name == b"idempotency-key"]
    if not values:
        return ""
    if len(values) > 1 or not _KEY.fullmatch(values[0]):
        raise RequestRefused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "the Idempotency-Key cannot be used",
            f"one, of 1 to {LONGEST_KEY} visible ASCII characters; another one for each backup",
        )
    return values[0].decode("ascii")


def _wait_s(request: Request) -> float:
    """Return for how many seconds a client waits. Raises RequestRefused."""
    text = request.query_params.get("wait", "0")
    if not _WAIT.fullmatch(text) or int(text) > LONGEST_WAIT_S:
        raise RequestRefused(
            HTTPStatus.UNPROCESSABLE_ENTITY, "wait is not a whole number of seconds", f"0 to {LONGEST_WAIT_S:.0f}"
        )
    return float(text)


def _known(run: RemoteRun | None) -> RemoteRun:
    if run is None:
        raise RequestRefused(
            HTTPStatus.NOT_FOUND,
            "there is no such run: backupd has restarted since, or it ended more than a day ago",
            "request the backup again, with the same key: an unchanged database gives the same generation",
        )
    return run


def _run_response(status: HTTPStatus, run: RemoteRun) -> Response:
    return _response(replace(json_response(status, run_facts(run)), headers={"Location": f"{RUNS}/{run.id}"}))


def _response(response: WebResponse) -> Response:
    headers = {"Content-Type": response.media_type, **response.headers}
    return Response(response.body, status_code=response.status, headers=headers)
