"""Calls that may block, as on a hanging disk: they run in daemon threads, which do not keep the process from ending."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def in_thread(function: Callable[[], T], name: str = "call") -> Future[T]:
    """Call `function` in a thread. Who no longer waits for the result cannot cancel it, and it is not lost to others.

    Raises RuntimeError where the system starts no thread.
    """
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:  # noqa: BLE001 - the caller gets it
            result.set_exception(error)

    Thread(target=run, name=name, daemon=True).start()
    return result
