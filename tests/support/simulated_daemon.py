"""What the daemon does with a schedule, without waiting: asks each time it ticks, and keeps what became of each run."""

from bisect import bisect, insort
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backupd.model import CLOCK_TOLERANCE
from backupd.schedule import Due, Schedule, TaskHistory, plan_next_run

AN_INSTANT = timedelta()


@dataclass
class SimulatedDaemon:
    """A daemon with one task: when its successful runs began, oldest first, and when the failed ones ended."""

    schedule: Schedule
    succeeded: list[datetime] = field(default_factory=list)
    failed: list[datetime] = field(default_factory=list)

    def history(self, now: datetime) -> TaskHistory:
        """Return what the catalog is asked for: the last success that is not dated in the future, and all failures."""
        past = bisect(self.succeeded, now + CLOCK_TOLERANCE)
        return TaskHistory(self.succeeded[past - 1] if past else None, tuple(self.failed))

    def plan(self, now: datetime) -> Due:
        """Return what is planned at `now`."""
        return plan_next_run(self.schedule, self.history(now), now)

    def tick(self, now: datetime, *, takes: timedelta = AN_INSTANT, ends: str = "well") -> bool:
        """Run the task if it is due at `now`; it `ends` well, badly, or not at all. Returns whether it was due."""
        if self.plan(now).at > now:
            return False
        if ends == "well":
            insort(self.succeeded, now)
        elif ends == "badly":
            self.failed.append(now + takes)
        return True
