"""The text of messages: what, since when, and the next step; short enough for any service."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from hashlib import sha256

from backupd.formatting import counted, human_duration, local_time, printable
from backupd.model import Severity
from backupd.notifications.planner import Notice
from backupd.runbook import DOCS_URL, runbook_address

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}(?=://)", re.ASCII)
_WORST_FIRST: tuple[Severity, ...] = ("failure", "warning", "success", "info")
_LABELS = {"resolved": "Resolved: ", "still": "Still: "}
# Telegram takes 4,096 characters in all, Discord 2,000 (Apprise cuts what is longer in two).
_MAX_LINE = 400
_MAX_BODY = 3_500
_MAX_NAME = 80  # the title needs room for the headline


@dataclass(frozen=True, slots=True)
class Channel:
    """One Apprise URL."""

    key: str  # represents the URL, which is a secret, in the catalog
    url: str = field(repr=False)
    number: int | None = field(default=None, compare=False)  # its position, where several look the same when masked

    @classmethod
    def of(cls, url: str) -> "Channel":
        """Return the channel of `url`."""
        return cls(sha256(url.encode(errors="replace")).hexdigest()[:16], url)

    @property
    def masked(self) -> str:
        """The service alone, such as `tgram://[secret]`: with some services host or path is the secret."""
        scheme = _SCHEME.match(self.url)
        shown = f"{scheme[0].lower()}://[secret]" if scheme else "[secret]"
        return f"{shown} (URL {self.number})" if self.number else shown


def parse_channels(urls: Iterable[str]) -> tuple[Channel, ...]:
    """Return the channel of each URL, without duplicates; those that look the same when masked are numbered."""
    channels = tuple({channel.key: channel for channel in map(Channel.of, urls)}.values())
    count = Counter(channel.masked for channel in channels)
    numbered = enumerate(channels, start=1)
    return tuple(replace(one, number=number if count[one.masked] > 1 else None) for number, one in numbered)


@dataclass(frozen=True, slots=True)
class Message:
    """A message to every channel; one that is sent twice has the same `reference` both times."""

    severity: Severity
    title: str
    body: str
    reference: str


def compose(notices: tuple[Notice, ...], name: str, zone: tzinfo, now: datetime, docs_url: str = DOCS_URL) -> Message:
    """Put `notices`, at least one, into one message from the backupd called `name`.

    Times are shown in `zone`, and the links to the runbook lead below `docs_url`.
    """
    severity = min((notice.severity for notice in notices), key=_WORST_FIRST.index)
    body = _body([_joined(_lines(notice, zone, now, docs_url)) for notice in notices])
    return _message(severity, _headline(notices), body, name, now)


def compose_lines(lines: Iterable[str], headline: str, name: str, now: datetime) -> Message:
    """Put `lines` into one message."""
    return _message("info", headline, _joined(lines), name, now)


def _joined(lines: Iterable[str]) -> str:
    return "\n".join(printable(line)[:_MAX_LINE] for line in lines)


def _message(severity: Severity, headline: str, body: str, name: str, now: datetime) -> Message:
    short = name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…"
    title = printable(f"backupd {short}: {headline}"[:_MAX_LINE])
    reference = sha256(f"{now.isoformat()}\n{title}\n{body}".encode(errors="replace")).hexdigest()[:8]
    return Message(severity, title, f"{body}\n\nref {reference}", reference)


def _headline(notices: tuple[Notice, ...]) -> str:
    if len(notices) == 1:
        return f"{_LABELS.get(notices[0].label, '').lower()}{notices[0].headline}"
    problems = sum(notice.severity in ("failure", "warning") for notice in notices)
    resolved = sum(notice.label == "resolved" for notice in notices)
    succeeded = len(notices) - problems - resolved
    parts = counted(problems, "problem"), f"{resolved} resolved", f"{succeeded} succeeded"
    return ", ".join(part for part in parts if not part.startswith("0 "))


def _body(paragraphs: list[str]) -> str:
    """Return as many paragraphs as fit, and the number of those that do not."""
    size, shown = 0, list[str]()
    for paragraph in paragraphs:
        size += len(paragraph)
        if size > _MAX_BODY and shown:
            left = len(paragraphs) - len(shown)
            return "\n\n".join([*shown, f"… and {left} more: see backupd status, and backup.log"])
        whole = len(paragraph) <= _MAX_BODY
        shown.append(paragraph if whole else paragraph[:_MAX_BODY].rpartition("\n")[0] + "\n…")
    return "\n\n".join(shown)


def _lines(notice: Notice, zone: tzinfo, now: datetime, docs_url: str) -> Iterator[str]:
    first = f"{_LABELS.get(notice.label, '')}{notice.headline}"
    yield first[:1].upper() + first[1:]
    if notice.detail:
        yield f"what: {notice.detail}"
    if notice.since is not None:
        local, lasted = notice.since.astimezone(zone), human_duration(max(0.0, (now - notice.since).total_seconds()))
        word, ago = ("began", " ago") if notice.label == "resolved" else ("since", "")
        yield f"{word}: {local:%a} {local_time(local, zone)} ({lasted}{ago})"
    if notice.next_step:
        yield f"next: {notice.next_step}"
    if notice.topic is not None:
        yield f"runbook: {runbook_address(notice.topic, docs_url=docs_url)}"
    yield from notice.lines
