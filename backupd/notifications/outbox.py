"""Messages on their way: pure. Each is kept before it is sent, and until every channel has taken it.

So a crash loses none; between sending and noting that, it sends one twice, with the same reference.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from backupd.catalog import CatalogUnavailable, NoticeRecord, NotificationState, OutboxMessage, open_catalog
from backupd.log import Event
from backupd.notifications.apprise_sender import Sender
from backupd.notifications.message import Channel, Message
from backupd.notifications.problems import PASSING
from backupd.tasks.context import TaskContext


class Outbox:
    """The book of `scope`; the catalog's is read once, and written whenever something changed.

    Where the catalog cannot be read for a while, the book begins empty: at worst something is said once more.
    """

    def __init__(self, scope: str, context: TaskContext) -> None:
        self._scope, self._site = scope, context
        self._kept: NotificationState | None = None
        self._began = context.clock()
        self.book: NotificationState | None = None

    def open(self) -> bool:
        """Tell whether there is a book to go by."""
        if self.book is None:
            self.book = self._kept = self._read()
        return self.book is not None

    def forget(self) -> None:
        """Read the book anew before it is used again: somebody else may write it meanwhile."""
        self.book = self._kept = None

    def keep(self, book: NotificationState) -> None:
        """Go by `book` from now on, and write it to the catalog, now or as soon as that works."""
        self.book = book
        if book == self._kept:
            return
        try:
            with open_catalog(self._site.catalog_path) as catalog:
                catalog.write_notification_state(self._scope, book)
            self._kept = book
        except CatalogUnavailable:
            self._kept = None  # one of the things that will be told

    def _read(self) -> NotificationState | None:
        try:
            with open_catalog(self._site.catalog_path) as catalog:
                return catalog.read_notification_state(self._scope)
        except CatalogUnavailable:
            return NotificationState() if self._site.clock() - self._began >= PASSING else None


# Of many that have piled up; the others follow a minute later.
_MOST_AT_ONCE: Final = 5
_WHAT_TO_DO: Final = "check its URL under [notify] with backupd notify --test"
# In the book of what was told: when a channel last took a message, and when one last did not, and why.
ACCEPTED = "taken"
REFUSED = "refused"
_FIRST_WAIT = timedelta(minutes=1)
_LONGEST_WAIT = timedelta(hours=1)
# Trouble that lasts is told anew each day: what is older than a few of them helps nobody.
GIVEN_UP_AFTER = timedelta(days=3)
# Some hours of trying: a clock that was set, or a daemon that was off for days, makes no message old.
_LEAST_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message that is given up, and why."""

    message: OutboxMessage
    why: str


def outbox_message(message: Message, channels: Iterable[Channel], now: datetime) -> OutboxMessage:
    """Return `message` as one that no channel has taken yet."""
    keys = frozenset(channel.key for channel in channels)
    return OutboxMessage(message.reference, now, message.severity, message.title, message.body, keys, 0, now)


def message_of(waiting: OutboxMessage) -> Message:
    """Return the message itself."""
    return Message(waiting.severity, waiting.title, waiting.body, waiting.reference)


def drop_expired(
    book: NotificationState, channels: Iterable[Channel], now: datetime
) -> tuple[NotificationState, tuple[Dropped, ...]]:
    """Drop what was tried for too long, and what was meant for channels that are gone."""
    known = {channel.key: channel for channel in channels}
    kept, dropped = list[OutboxMessage](), list[Dropped]()
    for waiting in book.outbox:
        left = replace(waiting, channels=waiting.channels & known.keys())
        if now - waiting.made_at > GIVEN_UP_AFTER and waiting.attempts >= _LEAST_ATTEMPTS:
            who = ", ".join(known[key].masked for key in sorted(left.channels)) or "its channel"
            dropped.append(Dropped(waiting, f"{who} did not take it within {GIVEN_UP_AFTER.days} days"))
        elif not left.channels:
            dropped.append(Dropped(waiting, "its channel is not configured any more"))
        else:
            kept.append(left)
    return replace(book, outbox=tuple(kept)), tuple(dropped)


def due(book: NotificationState, now: datetime) -> tuple[OutboxMessage, ...]:
    """Return what is to be sent now, oldest first; nobody waits for a time that a clock which ran ahead has set."""
    return tuple(one for one in book.outbox if one.next_at <= now or one.next_at - now > _LONGEST_WAIT)


def record_attempt(
    book: NotificationState, sent: OutboxMessage, reasons: Mapping[Channel, str], now: datetime
) -> NotificationState:
    """Return `book` as it is after `sent` was sent: with what is left of it, and how it went."""
    left = sent.channels - {channel.key for channel, reason in reasons.items() if not reason}
    wait = min(_FIRST_WAIT * (1 << min(sent.attempts, 10)), _LONGEST_WAIT)
    again = replace(sent, channels=left, attempts=sent.attempts + 1, next_at=now + wait)
    queue = (again if one.reference == sent.reference else one for one in book.outbox)
    told = dict(book.notices)
    for channel, reason in reasons.items():
        told[REFUSED if reason else ACCEPTED] = NoticeRecord(f"{channel.masked}: {reason}" if reason else "", now, now)
    return NotificationState(told, tuple(one for one in queue if one.channels))


def send_due(
    book: NotificationState,
    channels: tuple[Channel, ...],
    sender: Sender,
    context: TaskContext,
    keep: Callable[[NotificationState], None],
) -> None:
    """Send what is due; `keep` is told the book after each message, so that no crash sends more than one twice."""
    book, dropped = drop_expired(book, channels, context.clock())
    for gone in dropped:
        what = f"the message “{gone.message.title}” is given up: {gone.why}"
        context.log.warning(Event.MESSAGE_DROPPED, what, hint=_WHAT_TO_DO)
    keep(book)
    for waiting in due(book, context.clock())[:_MOST_AT_ONCE]:
        left = tuple(channel for channel in channels if channel.key in waiting.channels)
        reasons = sender.send(message_of(waiting), left)
        if sender.stopped:
            return
        book = record_attempt(book, waiting, reasons, context.clock())
        keep(book)
        _say(waiting, [f"{channel.masked}: {reason}" for channel, reason in reasons.items() if reason], left, context)


def _say(sent: OutboxMessage, refused: list[str], channels: tuple[Channel, ...], context: TaskContext) -> None:
    taken = len(channels) - len(refused)
    if taken:
        context.log.info(Event.MESSAGE_SENT, f"sent to {taken} of {len(channels)} channels: {sent.title}")
    for why in refused:
        what = f"the message “{sent.title}” was not taken by {why}; it is tried again"
        context.log.warning(Event.MESSAGE_FAILED, what, hint=_WHAT_TO_DO)
