"""Sends what waits, and tells in the log how it went: a message that nobody takes hurts nothing else."""

from collections.abc import Callable
from typing import Final

from backupd.catalog import Book, Queued
from backupd.jobs.site import Site
from backupd.log import Event
from backupd.told.channel import Channel
from backupd.told.queue import after_sending, due, message_of, swept
from backupd.told.send import Sender

# Of many that have piled up; the others follow a minute later.
_MOST_AT_ONCE: Final = 5
_WHAT_TO_DO: Final = "check its URL under [notify] with backupd notify --test"


def send_due(
    book: Book, channels: tuple[Channel, ...], sender: Sender, site: Site, keep: Callable[[Book], None]
) -> None:
    """Send what is due; `keep` is told the book after each message, so that no crash sends more than one twice."""
    book, dropped = swept(book, channels, site.clock())
    for gone in dropped:
        what = f"the message “{gone.message.title}” is given up: {gone.why}"
        site.log.warning(Event.MESSAGE_DROPPED, what, hint=_WHAT_TO_DO)
    keep(book)
    for waiting in due(book, site.clock())[:_MOST_AT_ONCE]:
        left = tuple(channel for channel in channels if channel.key in waiting.channels)
        reasons = sender.send(message_of(waiting), left)
        if sender.stopped:
            return
        book = after_sending(book, waiting, reasons, site.clock())
        keep(book)
        _say(waiting, [f"{channel.masked}: {reason}" for channel, reason in reasons.items() if reason], left, site)


def _say(sent: Queued, refused: list[str], channels: tuple[Channel, ...], site: Site) -> None:
    taken = len(channels) - len(refused)
    if taken:
        site.log.info(Event.MESSAGE_SENT, f"sent to {taken} of {len(channels)} channels: {sent.title}")
    for why in refused:
        what = f"the message “{sent.title}” was not taken by {why}; it is tried again"
        site.log.warning(Event.MESSAGE_FAILED, what, hint=_WHAT_TO_DO)
