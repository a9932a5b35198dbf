"""Messages in words: what, since when, and the next step; short enough for any service."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from hashlib import sha256

from backupd.formatting import human_duration, printable
from backupd.model import Severity
from backupd.notifications.planner import Notice

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}(?=://)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Channel:
    """One Apprise URL; `key` stands for it where it has to be remembered which channels have taken a message.

    `place` is its number among all, where the service alone does not tell which one it is.
    """

    key: str
    url: str = field(repr=False)
    place: int | None = field(default=None, compare=False)

    @classmethod
    def of(cls, url: str) -> "Channel":
        """Return the channel behind `url`."""
        return cls(sha256(url.encode(errors="replace")).hexdigest()[:16], url)

    @property
    def masked(self) -> str:
        """The service alone, such as `tgram://[secret]`: with some services host or path is the secret."""
        scheme = _SCHEME.match(self.url)
        shown = f"{scheme[0].lower()}://[secret]" if scheme else "[secret]"
        return f"{shown} (URL {self.place})" if self.place else shown


_MOODS: tuple[Severity, ...] = ("failure", "warning", "success", "info")  # the worst first
# Telegram takes 4,096 characters in all, Discord 2,000 (Apprise cuts what is longer in two).
_LONGEST_LINE = 400
_LONGEST_BODY = 3_500
_LONGEST_NAME = 80  # what is wrong has to be in the title as well
_LABELS = {"over": "Over: ", "still": "Still: "}


@dataclass(frozen=True, slots=True)
class Message:
    """A message to everybody; `reference` is the same for the same message, however often it arrives."""

    severity: Severity
    title: str
    body: str
    reference: str


def compose(items: tuple[Notice, ...], name: str, zone: tzinfo, now: datetime) -> Message:
    """Put `items`, at least one, into one message from the backupd called `name`; times are told in `zone`."""
    severity = min((item.severity for item in items), key=_MOODS.index)
    return _message(
        severity, _title(name, _headline(items)), _fitting([_paragraph(item, zone, now) for item in items]), now
    )


def compose_lines(
    lines: Iterable[str], headline: str, name: str, now: datetime, severity: Severity = "info"
) -> Message:
    """Put `lines` into one message."""
    body = "\n".join(printable(line)[:_LONGEST_LINE] for line in lines)
    return _message(severity, _title(name, headline), body, now)


def _title(name: str, headline: str) -> str:
    short = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
    return printable(f"backupd {short}: {headline}"[:_LONGEST_LINE])


def _message(severity: Severity, title: str, body: str, now: datetime) -> Message:
    reference = sha256(f"{now.isoformat()}\n{title}\n{body}".encode(errors="replace")).hexdigest()[:8]
    return Message(severity, title, f"{body}\n\nref {reference}", reference)


def _fitting(paragraphs: list[str]) -> str:
    """Return as many as there is room for, and say how many are left out."""
    size, shown = 0, list[str]()
    for paragraph in paragraphs:
        size += len(paragraph)
        if size > _LONGEST_BODY:
            return "\n\n".join(
                [*shown, f"… and {len(paragraphs) - len(shown)} more: see backupd status, and backup.log"]
            )
        shown.append(paragraph)
    return "\n\n".join(shown)


def _headline(items: tuple[Notice, ...]) -> str:
    if len(items) == 1:
        return f"{_LABELS.get(items[0].label, '').lower()}{items[0].headline}"
    troubles = sum(item.severity in ("failure", "warning") for item in items)
    others = len(items) - troubles
    parts = [f"{troubles} {'trouble' if troubles == 1 else 'troubles'}"] if troubles else []
    parts += [f"{others} good {'word' if others == 1 else 'words'}"] if others else []
    return ", ".join(parts)


def _paragraph(item: Notice, zone: tzinfo, now: datetime) -> str:
    return "\n".join(printable(line)[:_LONGEST_LINE] for line in _lines(item, zone, now))


def _lines(item: Notice, zone: tzinfo, now: datetime) -> Iterator[str]:
    first = f"{_LABELS.get(item.label, '')}{item.headline}"
    yield first[:1].upper() + first[1:]
    if item.detail:
        yield f"what: {item.detail}"
    if item.since is not None:
        local, lasted = item.since.astimezone(zone), human_duration(max(0.0, (now - item.since).total_seconds()))
        word = "began" if item.label == "over" else "since"
        yield f"{word}: {local:%a %F %H:%M} {local:%Z} ({lasted}{' ago' if item.label == 'over' else ''})"
    if item.next_step:
        yield f"next: {item.next_step}"


def parse_channels(urls: Iterable[str]) -> tuple[Channel, ...]:
    """Return each channel once; those that look the same have a number."""
    channels = tuple({channel.key: channel for channel in map(Channel.of, urls)}.values())
    looks = Counter(channel.masked for channel in channels)
    numbered = enumerate(channels, start=1)
    return tuple(replace(one, place=place if looks[one.masked] > 1 else None) for place, one in numbered)
