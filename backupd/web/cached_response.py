"""Values and responses that all clients share for two seconds or more; a thread computes them.

So a hanging disk blocks no client, and a flood of requests costs no more than a few. What took long is shared for
longer: computing takes at most a fifth of the time, however many sources there are.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread
from traceback import extract_tb
from typing import Generic, TypeVar

from backupd.formatting import printable
from backupd.web.responses import WebResponse, internal_error_response

T = TypeVar("T")


def fresh_for_s(cache_s: float, took_s: float) -> float:
    """Return for how long a value is shared that took `took_s`: `cache_s`, or four times as long as it took."""
    return cache_s and max(cache_s, 4 * took_s)


class SharedValue(Generic[T]):
    """A value from which several responses are made, computed by one of their threads while the others wait."""

    def __init__(self, compute: Callable[[], T], *, cache_s: float) -> None:
        self._compute = compute
        self._cache_s = cache_s
        self._lock = Lock()
        self._values: list[T] = []  # none or one
        self._fresh_until = 0.0

    def get(self) -> T:
        """Return the value. Raises what `compute` raises."""
        with self._lock:
            began = time.monotonic()
            if not self._values or began >= self._fresh_until:
                self._values = [self._compute()]
                ended = time.monotonic()
                self._fresh_until = ended + fresh_for_s(self._cache_s, ended - began)
            return self._values[0]


class CachedResponse:
    """Computes one kind of response, once at a time, and again only when the last one is no longer fresh.

    A client that has waited for `timeout_s` gets `on_timeout`; `compute` goes on in its daemon thread, which does not
    keep the process from ending. An exception of `compute` becomes status 500 and one call of `on_error`; the same
    exception is not reported again until `compute` has succeeded.
    """

    def __init__(
        self,
        compute: Callable[[], WebResponse],
        on_timeout: WebResponse,
        on_error: Callable[[str], None],
        *,
        cache_s: float,
        timeout_s: float,
    ) -> None:
        self._compute = compute
        self._on_timeout = on_timeout
        self._on_error = on_error
        self._cache_s = cache_s
        self._timeout_s = timeout_s
        self._response: Future[WebResponse] | None = None
        self._fresh_until = 0.0
        self._last_error = ""

    async def get(self) -> WebResponse:
        """Return the response. Called on the event loop only, so it needs no lock."""
        if self._response is None or (self._response.done() and time.monotonic() >= self._fresh_until):
            response: Future[WebResponse] = Future()
            response.set_running_or_notify_cancel()  # a client that disconnects cannot cancel it for the others
            Thread(target=self._run, args=(response,), name="backupd-http-answer", daemon=True).start()
            self._response = response
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._response), self._timeout_s)
        except TimeoutError:
            return self._on_timeout

    def _run(self, response: Future[WebResponse]) -> None:
        result, began = internal_error_response(), time.monotonic()
        try:
            result = self._compute()
            self._last_error = ""
        except Exception as error:  # noqa: BLE001 - any error becomes a 500 and a line in the log
            message = describe_error(error)
            if message != self._last_error:
                self._last_error = message
                self._on_error(message)
        finally:  # each waiting client gets a response
            ended = time.monotonic()
            self._fresh_until = ended + fresh_for_s(self._cache_s, ended - began)
            response.set_result(result)


def describe_error(error: BaseException) -> str:
    """Return in one line the type and message of `error`, and where it was raised."""
    frames = extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return printable(f"{type(error).__name__}: {error}{where}")
