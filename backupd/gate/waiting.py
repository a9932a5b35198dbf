"""Waiting that ends when a deploy is cancelled: for the next attempt, and for the answer to a request."""

import time
from collections.abc import Callable
from concurrent.futures import wait
from typing import Final, TypeVar

from backupd.errors import Cancelled
from backupd.system.http import HttpRequest, HttpResponse, send_request
from backupd.system.in_thread import in_thread
from backupd.system.process import process_start_errors

T = TypeVar("T")
IsCancelled = Callable[[], bool]
_POLL_S: Final = 0.25


def require_wanted(cancelled: IsCancelled) -> None:
    """Raise Cancelled if the deploy is not to go on."""
    if cancelled():
        raise Cancelled("not completed: the gate ends, or a newer push has come")


def pause(seconds: float, cancelled: IsCancelled) -> None:
    """Wait for so many seconds. Raises Cancelled."""
    end = time.monotonic() + seconds
    require_wanted(cancelled)
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _POLL_S))
        require_wanted(cancelled)


def abandonable(call: Callable[[], T], cancelled: IsCancelled) -> T:
    """Return what `call` returns in a thread of its own, which is abandoned when the deploy is cancelled.

    Raises what `call` raises, Cancelled, ProcessRefused.
    """
    require_wanted(cancelled)
    with process_start_errors():
        answer = in_thread(call, "step")
    while not answer.done():
        wait((answer,), _POLL_S)
        require_wanted(cancelled)
    return answer.result()


def ask(request: HttpRequest, cancelled: IsCancelled, *, timeout_s: float, direct: bool = False) -> HttpResponse:
    """Do what `send_request` does, and abandon the request when the deploy is cancelled.

    Raises RequestFailed, Cancelled, ProcessRefused.
    """
    return abandonable(lambda: send_request(request, timeout_s=timeout_s, direct=direct), cancelled)
