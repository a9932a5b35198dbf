"""What the daemon has to do: each task of each source, by its schedule."""

from dataclasses import dataclass
from zoneinfo import ZoneInfo

from backupd.config import Config
from backupd.model import Task
from backupd.schedule import Schedule

# In this order when several are due: what makes a new copy goes before what looks after old ones.
_SCHEDULED: tuple[Task, ...] = ("backup", "replicate", "prune", "scrub")


@dataclass(frozen=True, slots=True)
class Planned:
    """One task of one source, or of one replica, and when it is due."""

    task: Task
    source: str
    schedule: Schedule

    def __str__(self) -> str:
        return f"{self.task} {'to' if self.task == 'replicate' else 'of'} {self.source}"


def planned_tasks(config: Config) -> tuple[Planned, ...]:
    """Return every task that the configuration schedules."""
    zone = ZoneInfo(config.schedule.timezone)
    return tuple(
        Planned(task, source, Schedule.parse(getattr(config.schedule, task), zone))
        for task in _SCHEDULED
        for source in (config.replicas if task == "replicate" else config.sources)
    )
