"""Two workers side by side: what goes over the network keeps no backup waiting, however slow the other end is."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from backupd.service.worker import Ended, Job, Worker

_AWAY = ("replicate", "drill")


@dataclass(frozen=True, slots=True)
class Lanes:
    """Replications and drills in one lane, all else in the other; see `Worker`, whose methods these are."""

    here: Worker
    away: Worker

    def start(self, on_end: Callable[[], None]) -> None:
        """Begin to work; `on_end` hears of the end of each run of a source or to a replica, in either thread."""
        for worker in (self.here, self.away):
            worker.start(on_end)

    def submit(self, job: Job) -> bool:
        """Queue `job` in its lane, unless it waits or is being done already; tells whether it was queued."""
        return self._lane(job).submit(job)

    def ended(self, job: Job) -> tuple[Ended, ...]:
        """Return how the last success of `job` and the failures since then ended, oldest first."""
        return self._lane(job).ended(job)

    def alive(self) -> bool:
        """Tell whether both are there, at work or waiting for some."""
        return self.here.alive() and self.away.alive()

    def stop(self) -> None:
        """Stop both at the same time, so that it takes no longer than with one."""
        other = threading.Thread(target=self.away.stop, name="stop")
        try:
            other.start()
        except RuntimeError:  # no further thread is to be had: one after the other
            self.away.stop()
            self.here.stop()
            return
        self.here.stop()
        other.join()

    def _lane(self, job: Job) -> Worker:
        return self.away if job.task in _AWAY else self.here
