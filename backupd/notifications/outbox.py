"""Messages on their way: each is saved before it is sent, and kept until every channel has accepted it.

So a crash loses none; one between sending and saving sends the message twice, with the same reference.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from backupd.catalog import CatalogUnavailable, NoticeRecord, NotificationState, OutboxMessage, open_catalog
from backupd.log import Event
from backupd.notifications.apprise import Sender
from backupd.notifications.message import Channel, Message
from backupd.notifications.planner import TRANSIENT
from backupd.tasks.context import TaskContext

if TYPE_CHECKING:
    from backupd.catalog.catalog import Catalog

# Keys of the record: when a channel last accepted a message, and when one last refused one, with the error.
ACCEPTED = "accepted"
REFUSED = "refused"
# A problem that lasts is reported each day: a message that is a few days old is of no use.
MAX_AGE = timedelta(days=3)
# Some hours of attempts: a clock that was set, or a daemon that was off for days, does not expire a message.
_MIN_ATTEMPTS = 8
_MAX_AT_ONCE: Final = 5  # the others follow a minute later
_FIRST_WAIT = timedelta(minutes=1)
_MAX_WAIT = timedelta(hours=1)
_HINT: Final = "check its URL under [notify] with backupd notify --test"


class Outbox:
    """The notification state of `scope`: read from the catalog once, and written there when it changes.

    Where that has none, the state of an earlier first source is taken over that `is_free`, as no other daemon works for
    it: one of `subjects`, else any. So sources may get other names and another order.


    While the catalog cannot be read, `state` is None at first and empty after `TRANSIENT`: at worst a problem is
    reported twice.
    """

    def __init__(
        self, scope: str, subjects: Collection[str], is_free: Callable[[str], bool], context: TaskContext
    ) -> None:
        self._scope, self._subjects, self._is_free, self._context = scope, subjects, is_free, context
        self._saved: NotificationState | None = None
        self._began = context.clock()
        self.state: NotificationState | None = None

    def load(self) -> NotificationState | None:
        """Return the state, read from the catalog where that is still to be done."""
        if self.state is None:
            try:
                with open_catalog(self._context.catalog_path) as catalog:
                    self._take_over(catalog)
                    self.state = catalog.read_notification_state(self._scope)
            except CatalogUnavailable:
                long = self._context.clock() - self._began >= TRANSIENT
                self.state = NotificationState() if long else None
            self._saved = self.state
        return self.state

    def _take_over(self, catalog: "Catalog") -> None:
        scopes = catalog.notification_scopes()
        if self._scope not in scopes:
            known_first = sorted(scopes, key=lambda scope: scope not in self._subjects)
            if (earlier := next(filter(self._is_free, known_first), None)) is not None:
                catalog.move_notification_state(earlier, self._scope)

    def unload(self) -> None:
        """Read the catalog again before the next use: another daemon may change the state until then."""
        self.state = self._saved = None

    def save(self, state: NotificationState) -> None:
        """Set the state, and write it to the catalog, now or at the next call that can."""
        self.state = state
        if state == self._saved:
            return
        try:
            with open_catalog(self._context.catalog_path) as catalog:
                catalog.write_notification_state(self._scope, state)
            self._saved = state
        except CatalogUnavailable:
            self._saved = None  # the planner reports it

    def send_due(self, channels: tuple[Channel, ...], sender: Sender) -> None:
        """Send what is due, oldest first; saves after each message, so that a crash repeats one message at most."""
        context = self._context
        self.save(self._without_expired(channels))
        for waiting in self._due(context.clock())[:_MAX_AT_ONCE]:
            answers = sender.send(waiting, [channel for channel in channels if channel.key in waiting.channels])
            errors = {channel: context.log.mask(error) for channel, error in answers.items()}
            if sender.stopped:
                return
            self.save(_after_attempt(self.state or NotificationState(), waiting, errors, context.clock()))
            accepted = sum(not error for error in errors.values())
            if accepted:
                context.log.info(Event.MESSAGE_SENT, f"sent to {accepted} of {len(errors)} channels: {waiting.title}")
            for channel, error in errors.items():
                if error:
                    what = f"{channel.masked} did not accept the message “{waiting.title}”: {error}"
                    context.log.warning(Event.MESSAGE_FAILED, f"{what}; backupd tries again", hint=_HINT)

    def _due(self, now: datetime) -> tuple[OutboxMessage, ...]:
        """Return the messages to send now; a next attempt further away than any wait was set by a wrong clock."""
        outbox = self.state.outbox if self.state else ()
        return tuple(one for one in outbox if one.next_at <= now or one.next_at - now > _MAX_WAIT)

    def _without_expired(self, channels: Iterable[Channel]) -> NotificationState:
        """Drop messages that were tried for too long, and those to channels that are no longer configured."""
        state, known = self.state or NotificationState(), {channel.key: channel for channel in channels}
        kept = list[OutboxMessage]()
        for waiting in state.outbox:
            left = replace(waiting, channels=waiting.channels & known.keys())
            if self._context.clock() - waiting.made_at > MAX_AGE and waiting.attempts >= _MIN_ATTEMPTS:
                names = ", ".join(known[key].masked for key in sorted(left.channels)) or "its channel"
                reason = f"{names} did not accept it within {MAX_AGE.days} days"
            elif not left.channels:
                reason = "its channel is no longer configured"
            else:
                kept.append(left)
                continue
            what = f"the message “{waiting.title}” is dropped: {reason}"
            self._context.log.warning(Event.MESSAGE_DROPPED, what, hint=_HINT)
        return replace(state, outbox=tuple(kept))


def outbox_message(message: Message, channels: Iterable[Channel], now: datetime) -> OutboxMessage:
    """Return `message` as one that no channel has accepted yet."""
    keys = frozenset(channel.key for channel in channels)
    return OutboxMessage(message.reference, now, message.severity, message.title, message.body, keys, 0, now)


def _after_attempt(
    state: NotificationState, sent: OutboxMessage, errors: Mapping[Channel, str], now: datetime
) -> NotificationState:
    """Return `state` after `sent` was sent with these `errors`, empty where a channel accepted it."""
    left = sent.channels - {channel.key for channel, error in errors.items() if not error}
    wait = min(_FIRST_WAIT * (1 << min(sent.attempts, 10)), _MAX_WAIT)
    retried = replace(sent, channels=left, attempts=sent.attempts + 1, next_at=now + wait)
    outbox = (retried if one.reference == sent.reference else one for one in state.outbox)
    notices = dict(state.notices)
    for channel, error in errors.items():
        notices[REFUSED if error else ACCEPTED] = NoticeRecord(f"{channel.masked}: {error}" if error else "", now, now)
    return NotificationState(notices, tuple(one for one in outbox if one.channels))
