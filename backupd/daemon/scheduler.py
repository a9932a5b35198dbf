"""What fires: APScheduler, once a minute; what is due is not its affair (docs/adr/0007-what-is-due.md)."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

# Two ticks may be late before the scheduler counts as stuck: one can take a while on a busy machine.
STALLED_S: Final = 150.0


class Scheduler:
    """Calls `tick` at start, at each full minute and when told to hurry.

    `age_s` tells how long ago it last ended, well or not.
    """

    def __init__(
        self, tick: Callable[[], None], on_error: Callable[[Exception], None], *, stalled_s: float = STALLED_S
    ) -> None:
        self._tick, self._on_error, self._stalled_s = tick, on_error, stalled_s
        self._lock = threading.Lock()
        self._ticked_at = self._restarted_at = time.monotonic()
        self._scheduler = _scheduler()

    def start(self) -> None:
        """Fire now, and then every minute."""
        self._scheduler.add_job(
            self._fire, CronTrigger(second=0, timezone=UTC), id="tick", next_run_time=datetime.now(UTC)
        )
        self._scheduler.start()

    def hurry(self) -> None:
        """Fire now as well, unless it is about to stop."""
        with suppress(JobLookupError):
            self._scheduler.modify_job("tick", next_run_time=datetime.now(UTC))

    def age_s(self) -> float:
        """Return the seconds since a tick last ended, by a clock that nobody can set."""
        return time.monotonic() - self._ticked_at

    def mend(self) -> bool:
        """Replace a scheduler that is stuck, and tell whether it was.

        Its thread may have died, or it sleeps until a time that the clock was set back from. A new one is given as
        long as the first before it is replaced in its turn; a tick that hangs is no fault of the scheduler's.
        """
        if self._lock.locked() or min(self.age_s(), time.monotonic() - self._restarted_at) < self._stalled_s:
            return False
        self._restarted_at = time.monotonic()
        self.stop()
        self._scheduler = _scheduler()
        self.start()
        return True

    def stop(self) -> None:
        """Fire no more; a tick that is at work ends by itself."""
        self._scheduler.shutdown(wait=False)

    def _fire(self) -> None:
        with self._lock:  # a tick that outlived its scheduler goes before that of the next one
            try:
                self._tick()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next minute has to come
                self._on_error(error)
            self._ticked_at = time.monotonic()


def _scheduler() -> BackgroundScheduler:
    quiet = logging.Logger("apscheduler")  # noqa: LOG001 - none of the global ones: what there is to say we say
    quiet.addHandler(logging.NullHandler())
    return BackgroundScheduler(
        jobstores={"default": MemoryJobStore()},
        executors={"default": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        timezone=UTC,
        logger=quiet,
        daemon=True,
    )
