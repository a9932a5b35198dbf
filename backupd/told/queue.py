"""Messages on their way: pure. Each is kept before it is sent, and until every channel has taken it.

So a crash loses none; between sending and noting that, it sends one twice, with the same reference.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from backupd.catalog import Book, Queued, Told
from backupd.told.channel import Channel
from backupd.told.words import Message

# In the book of what was told: when a channel last took a message, and when one last did not, and why.
TAKEN = "taken"
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

    message: Queued
    why: str


def queued(message: Message, channels: Iterable[Channel], now: datetime) -> Queued:
    """Return `message` as one that no channel has taken yet."""
    keys = frozenset(channel.key for channel in channels)
    return Queued(message.reference, now, message.mood, message.title, message.body, keys, 0, now)


def message_of(waiting: Queued) -> Message:
    """Return the message itself."""
    return Message(waiting.mood, waiting.title, waiting.body, waiting.reference)


def swept(book: Book, channels: Iterable[Channel], now: datetime) -> tuple[Book, tuple[Dropped, ...]]:
    """Drop what was tried for too long, and what was meant for channels that are gone."""
    known = {channel.key: channel for channel in channels}
    kept, dropped = list[Queued](), list[Dropped]()
    for waiting in book.queue:
        left = replace(waiting, channels=waiting.channels & known.keys())
        if now - waiting.made_at > GIVEN_UP_AFTER and waiting.attempts >= _LEAST_ATTEMPTS:
            who = ", ".join(known[key].masked for key in sorted(left.channels)) or "its channel"
            dropped.append(Dropped(waiting, f"{who} did not take it within {GIVEN_UP_AFTER.days} days"))
        elif not left.channels:
            dropped.append(Dropped(waiting, "its channel is not configured any more"))
        else:
            kept.append(left)
    return replace(book, queue=tuple(kept)), tuple(dropped)


def due(book: Book, now: datetime) -> tuple[Queued, ...]:
    """Return what is to be sent now, oldest first; nobody waits for a time that a clock which ran ahead has set."""
    return tuple(one for one in book.queue if one.next_at <= now or one.next_at - now > _LONGEST_WAIT)


def after_sending(book: Book, sent: Queued, reasons: Mapping[Channel, str], now: datetime) -> Book:
    """Return `book` as it is after `sent` was sent: with what is left of it, and how it went."""
    left = sent.channels - {channel.key for channel, reason in reasons.items() if not reason}
    wait = min(_FIRST_WAIT * (1 << min(sent.attempts, 10)), _LONGEST_WAIT)
    again = replace(sent, channels=left, attempts=sent.attempts + 1, next_at=now + wait)
    queue = (again if one.reference == sent.reference else one for one in book.queue)
    told = dict(book.told)
    for channel, reason in reasons.items():
        told[REFUSED if reason else TAKEN] = Told(f"{channel.masked}: {reason}" if reason else "", now, now)
    return Book(told, tuple(one for one in queue if one.channels))
