"""The daily ping: only a day on which all is well is told to the monitor that expects one."""

from collections.abc import Mapping
from dataclasses import replace
from uuid import uuid4

from backupd.catalog import NoticeRecord
from backupd.health import Health
from backupd.notifications.planner import not_in_future
from backupd.pings.monitors import DAILY, Monitor, Ping
from backupd.pings.pinger import Pinger
from backupd.schedule import Schedule, TaskHistory, plan_next_run

_KEY = "daily ping"
_FAILURES_KEPT = 10


class DailyPing:
    """Pings `address` by `schedule`, or as soon as all is well after that; one that fails is tried again."""

    def __init__(self, address: Monitor, schedule: Schedule, pinger: Pinger) -> None:
        self._address, self._schedule, self._pinger = address, schedule, pinger
        self._failed = TaskHistory()

    def ping(self, health: Health, told: Mapping[str, NoticeRecord]) -> Mapping[str, NoticeRecord]:
        """Ping if it is due and all is well; returns what was told by then."""
        now = health.checked_at
        last = not_in_future(told[_KEY], now) if _KEY in told else NoticeRecord("", now)
        history = replace(self._failed, succeeded_at=last.notified_at)
        if not health.healthy or plan_next_run(self._schedule, history, now).at > now:
            return told
        proofs = ", ".join(f"{standing.task} {standing.subject}" for standing in health.freshness)
        ping = Ping("success", str(uuid4()), f"all proofs are within their limits: {proofs}")
        if not self._pinger.send(self._address, ping, DAILY):
            self._failed = TaskHistory(None, (*self._failed.failed_at, now)[-_FAILURES_KEPT:])
            return told
        self._failed = TaskHistory()
        return {**told, _KEY: replace(last, notified_at=now)}
