"""One answer for all who ask within two seconds, worked out in a thread: hammering is cheap, hanging blocks nobody."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from traceback import extract_tb

from backupd.formatting import printable
from backupd.web.responses import Answer, internal_error


class SharedAnswer:
    """Works out one kind of answer: never twice at a time, and for `fresh_s` after it was worked out not again.

    `work` may read files for as long as it likes: whoever has waited for `patience_s` gets `late`, and the one thread
    of this kind of answer, a daemon thread, keeps no process from ending. What `work` raises becomes status 500, and is
    told to `on_error`, once as long as it stays the same.
    """

    def __init__(
        self,
        work: Callable[[], Answer],
        late: Answer,
        on_error: Callable[[str], None],
        *,
        fresh_s: float,
        patience_s: float,
    ) -> None:
        self._work = work
        self._late = late
        self._on_error = on_error
        self._fresh_s = fresh_s
        self._patience_s = patience_s
        self._answer: Future[Answer] | None = None
        self._answered_at = 0.0
        self._last_error = ""

    async def get(self) -> Answer:
        """Return the answer; only ever called on the event loop, which is why no lock is needed."""
        if self._answer is None or (self._answer.done() and time.monotonic() - self._answered_at >= self._fresh_s):
            self._answer = self._begin()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._answer), self._patience_s)
        except TimeoutError:
            return self._late

    def _begin(self) -> Future[Answer]:
        answer: Future[Answer] = Future()
        answer.set_running_or_notify_cancel()  # so that nobody who goes away can cancel it for the others
        Thread(target=self._run, args=(answer,), name="backupd-http-answer", daemon=True).start()
        return answer

    def _run(self, answer: Future[Answer]) -> None:
        result = internal_error()
        try:
            result = self._worked_out()
        finally:  # whatever happens, nobody waits in vain
            self._answered_at = time.monotonic()
            answer.set_result(result)

    def _worked_out(self) -> Answer:
        try:
            answer = self._work()
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a 500 and a line in the log
            message = describe_error(error)
            if message != self._last_error:
                self._last_error = message
                self._on_error(message)
            return internal_error()
        self._last_error = ""
        return answer


def describe_error(error: BaseException) -> str:
    """Tell in one line what was raised, and where."""
    frames = extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return printable(f"{type(error).__name__}: {error}{where}")
