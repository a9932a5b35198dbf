"""What the daemon has to do: each task of each source, by its schedule."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from backupd.config import Config
from backupd.model import Task
from backupd.schedule import Schedule
from backupd.wiring import drill_store, drills, schedule_of

# In this order when several are due: what makes a new copy goes before what looks after old ones.
_SCHEDULED: tuple[Task, ...] = ("backup", "replicate", "drill", "prune", "scrub")
# What is about to be made ought to travel, and what is about to travel to be drilled.
_WAITS_FOR: Mapping[Task, frozenset[Task]] = {
    "replicate": frozenset({"backup"}),
    "drill": frozenset({"backup", "replicate"}),
}


@dataclass(frozen=True, slots=True)
class Planned:
    """One task of one source (for a drill from `store`), or of one replica, and when it is due.

    A backup is of the file `database`.
    """

    task: Task
    source: str
    schedule: Schedule
    store: str = ""
    database: Path | None = None

    def __str__(self) -> str:
        place = f" from {self.store}" if self.store else ""
        return f"{self.task} {'to' if self.task == 'replicate' else 'of'} {self.source}{place}"


def planned_tasks(config: Config) -> tuple[Planned, ...]:
    """Return every task that the configuration schedules."""
    store = drill_store(config)
    return tuple(
        Planned(
            task,
            source,
            schedule_of(config, task, source),
            store if task == "drill" else "",
            config.sources[source].path if task == "backup" else None,
        )
        for task in _SCHEDULED
        for source in _subjects(task, config)
    )


def waits(task: Task, due: Iterable[Task]) -> bool:
    """Tell whether `task`, which is due, has to wait for others that are; one that failed is not due for a while."""
    return not _WAITS_FOR.get(task, frozenset()).isdisjoint(due)


def _subjects(task: Task, config: Config) -> Iterable[str]:
    if task == "replicate":
        return config.replicas
    return config.sources if task != "drill" or drills(config) else ()
