"""Fires once a minute, with APScheduler; it does not know what is due (docs/adr/0007-what-is-due.md)."""

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

# Two ticks may be late, on a busy machine, before the scheduler counts as stalled.
STALLED_S: Final = 150.0


class Scheduler:
    """Calls `tick` at start, at each full minute, and after `fire_soon`; an exception goes to `on_error`."""

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

    def fire_soon(self) -> None:
        """Fire now as well; nothing happens once it is stopping."""
        with suppress(JobLookupError):
            self._scheduler.modify_job("tick", next_run_time=datetime.now(UTC))

    def age_s(self) -> float:
        """Return the seconds since a tick last ended, by the monotonic clock."""
        return time.monotonic() - self._ticked_at

    def replace_if_stalled(self) -> bool:
        """Replace a scheduler that does not fire, and return whether it was replaced.

        Its thread may have died, or the clock was set back from the time that it sleeps until. Not while a tick hangs,
        nor sooner after the last replacement than after the start.
        """
        if self._lock.locked() or min(self.age_s(), time.monotonic() - self._restarted_at) < self._stalled_s:
            return False
        self._restarted_at = time.monotonic()
        self.stop()
        self._scheduler = _scheduler()
        self.start()
        return True

    def stop(self) -> None:
        """Fire no more; a tick that is running ends by itself."""
        self._scheduler.shutdown(wait=False)

    def _fire(self) -> None:
        with self._lock:  # a tick that outlives its scheduler ends before the next one begins
            try:
                self._tick()
            except Exception as error:  # noqa: BLE001 - the scheduler must survive any defect
                self._on_error(error)
            self._ticked_at = time.monotonic()


def _scheduler() -> BackgroundScheduler:
    quiet = logging.Logger("apscheduler")  # noqa: LOG001 - APScheduler's own messages are not shown
    quiet.addHandler(logging.NullHandler())
    return BackgroundScheduler(
        jobstores={"default": MemoryJobStore()},
        executors={"default": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        timezone=UTC,
        logger=quiet,
        daemon=True,
    )
