"""What a daemon is asked to tell, and to whom: made from the configuration."""

from dataclasses import dataclass
from datetime import tzinfo

from backupd.health import Limit
from backupd.notifications.collector import App
from backupd.notifications.message import Channel
from backupd.pings.monitors import Monitor
from backupd.schedule import Schedule


@dataclass(frozen=True, slots=True)
class NotificationOptions:
    """`scope` is the source whose claim makes this daemon the one that tells; `name` is what messages call it.

    `daily` is the monitor that hears of a healthy day, at times by `daily_schedule`; `digest` when everything is told.
    """

    scope: str
    name: str
    zone: tzinfo
    subjects: frozenset[str]
    limits: tuple[Limit, ...]
    channels: tuple[Channel, ...] = ()
    digest: Schedule | None = None
    daily: Monitor | None = None
    daily_schedule: Schedule | None = None
    app: App | None = None

    @property
    def anything(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self.channels) or self.daily is not None
