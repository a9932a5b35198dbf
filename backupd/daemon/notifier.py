"""Tells people: looks once a minute, decides, keeps what it is about to say, and sends it.

A thread of its own: neither the scheduler nor a run waits for a service that hangs.
"""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from backupd import __version__
from backupd.catalog import NotificationState
from backupd.health import Health
from backupd.log import Event
from backupd.notifications.apprise_sender import Sender
from backupd.notifications.collector import check_app, observe
from backupd.notifications.daily_ping import DailyPing
from backupd.notifications.deploy import AppVersion, is_pending, plan_deploy
from backupd.notifications.message import Message, compose, compose_lines
from backupd.notifications.options import NotificationOptions
from backupd.notifications.outbox import Outbox, outbox_message, send_due
from backupd.notifications.ping_status import ping_recorder
from backupd.notifications.planner import Notice, plan_digest, plan_notices
from backupd.notifications.problems import Observation, facts_of
from backupd.pings.pinger import Pinger
from backupd.tasks.context import TaskContext

LOOK_EVERY_S: Final = 60.0
# While a deploy waits for its verdict, and until it is known whether another daemon still looks after the source.
_SOON_S: Final = 5.0
_OWN_TIMEOUT: Final = timedelta(minutes=5)


class Notifier:
    """Tells what `order` asks for, for as long as `mine` says that this daemon is the one that does.

    `alive` says why the daemon does not work, `digest` tells how everything stands, in lines; `woken` makes it look at
    once.
    """

    def __init__(
        self,
        request: NotificationOptions,
        context: TaskContext,
        mine: Callable[[], bool],
        alive: Callable[[], tuple[str, ...]],
        digest: Callable[[], tuple[str, ...]],
        woken: threading.Event,
        sender: Sender | None = None,
    ) -> None:
        self._request, self._context, self._mine, self._alive, self._digest = request, context, mine, alive, digest
        self._woken, self._sender = woken, sender or Sender()
        self._notebook = Outbox(request.scope, context)
        self._daily: DailyPing | None = None
        if request.daily is not None and request.daily_schedule is not None:
            self._daily = DailyPing(
                request.daily, request.daily_schedule, Pinger({}, context.log, ping_recorder(context))
            )
        self._stopping = False
        self._last_error = ""
        self._thread = threading.Thread(target=self._run, name="teller", daemon=True)

    def start(self) -> None:
        """Begin, where there is anybody to tell."""
        if self._request.anything:
            self._thread.start()

    def stop(self) -> None:
        """Send nothing more; what was being sent is sent again at the next start."""
        self._stopping = True
        self._sender.stop()
        self._woken.set()

    def turn(self) -> float:
        """Look, decide, keep, and send what is due; returns after how many seconds to look again."""
        if not self._mine():
            self._notebook.forget()
            return _SOON_S
        if not self._notebook.open() or self._notebook.book is None:
            return LOOK_EVERY_S
        look = observe(self._request.limits, self._request.subjects, self._context)
        if self._request.channels:
            self._notebook.keep(self._decided(self._notebook.book, look))
            send_due(self._notebook.book, self._request.channels, self._sender, self._context, self._notebook.keep)
        book = self._notebook.book
        if self._daily is not None:
            told = self._daily.ping(Health.of(look.health, self._context.clock()), book.notices)
            self._notebook.keep(NotificationState(told, book.outbox))
        return _SOON_S if any(is_pending(name, book.notices) for name in ("backupd", "app")) else LOOK_EVERY_S

    def _run(self) -> None:
        while not self._stopping:
            self._woken.clear()
            self._woken.wait(self._safe_turn())

    def _safe_turn(self) -> float:
        try:
            return self.turn()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next minute has to come
            self._say_broken(error)
            return LOOK_EVERY_S

    def _say_broken(self, error: Exception) -> None:
        what = f"could not find out what to tell: {type(error).__name__}: {error}"
        if what != self._last_error and not self._stopping:
            self._context.log.error(Event.TELLING_FAILED, what, hint="report this with backup.log")
        self._last_error = what

    def _decided(self, book: NotificationState, look: Observation) -> NotificationState:
        """Return `book` with what is to be said now, on its way."""
        request, now = self._request, self._context.clock()
        plan = plan_notices(facts_of(look, now), book.notices, now)
        messages = list[Message]()
        if plan.items:
            messages.append(compose(plan.items, request.name, request.zone, now))
        told = plan.told
        for seen, timeout in self._versions():
            verdict = plan_deploy(seen, told, timeout, now)
            told = verdict.told
            messages += [self._composed(item) for item in verdict.items]
        if request.digest is not None:
            due, told = plan_digest(request.digest, told, now)
            if due:
                messages.append(compose_lines(self._digest(), "how it stands", request.name, now))
        return NotificationState(
            told, (*book.outbox, *(outbox_message(message, request.channels, now) for message in messages))
        )

    def _composed(self, item: Notice) -> Message:
        return compose((item,), self._request.name, self._request.zone, self._context.clock())

    def _versions(self) -> list[tuple[AppVersion, timedelta]]:
        versions = [(AppVersion("backupd", __version__, "; ".join(self._alive())), _OWN_TIMEOUT)]
        if self._request.app is not None:
            versions.append((check_app(self._request.app), self._request.app.timeout))
        return versions
