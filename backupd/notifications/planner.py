"""What is said now, given what was said before: pure.

A trouble is told once it has lasted for as long as it has to, again each day for as long as it lasts, and its end once.
One that comes back within a day of being told is not told before that day is over.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from backupd.catalog import NoticeRecord
from backupd.model import CLOCK_TOLERANCE, Severity
from backupd.notifications.problems import Facts, Occurrence, Trouble, kind_of, subject_of
from backupd.schedule import Schedule

AGAIN_AFTER = timedelta(days=1)
_TROUBLE = "trouble "
_REST = "rest "
_NEWS = "news "
_DIGEST = "digest"


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to say: a headline, what is known of it, since when, what to do next."""

    severity: Severity
    headline: str
    detail: str = ""
    since: datetime | None = None
    next_step: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to say now, and all that was said by then, to be kept before it is sent."""

    items: tuple[Notice, ...]
    told: Mapping[str, NoticeRecord]


def plan_notices(facts: Facts, told: Mapping[str, NoticeRecord], now: datetime) -> Plan:
    """Decide what of `facts` is said at `now` (aware). `told` may hold other keys, which stay."""
    book = {key: not_in_future(one, now) for key, one in told.items() if not _rested(key, one, now)}
    items = [*_ended(facts, book, now), *_troubles(facts, book, now), *_news(facts.news, book, now)]
    return Plan(tuple(items), book)


def plan_digest(
    schedule: Schedule, told: Mapping[str, NoticeRecord], now: datetime
) -> tuple[bool, Mapping[str, NoticeRecord]]:
    """Tell whether the digest is due, and what is to be kept then; the first one comes at the first due time."""
    last = not_in_future(told.get(_DIGEST, NoticeRecord("", now, now)), now)
    due = schedule.following(last.notified_at or now) <= now
    return due, {**told, _DIGEST: replace(last, notified_at=now) if due else last}


def not_in_future(told: NoticeRecord, now: datetime) -> NoticeRecord:
    """Return `told` without what a clock that ran ahead dated: that was never said, or began just now."""
    until = now + CLOCK_TOLERANCE
    since = min(told.since, now) if told.since > until else told.since
    return replace(
        told, since=since, notified_at=None if told.notified_at and told.notified_at > until else told.notified_at
    )


def _rested(key: str, told: NoticeRecord, now: datetime) -> bool:
    """Tell whether a trouble that ended was told so long ago that it may be told anew."""
    return key.startswith(_REST) and (told.notified_at is None or now - told.notified_at >= AGAIN_AFTER)


def _ended(facts: Facts, book: dict[str, NoticeRecord], now: datetime) -> Iterator[Notice]:
    there = {_TROUBLE + trouble.key for trouble in facts.troubles}
    for key in sorted(key for key in book if key.startswith(_TROUBLE) and key not in there):
        name = key.removeprefix(_TROUBLE)
        subject = subject_of(name)
        if kind_of(name) in facts.blind:
            continue
        was = book.pop(key)
        if was.notified_at is None or (subject is not None and subject not in facts.subjects):
            continue
        if now - was.notified_at < AGAIN_AFTER:
            book[_REST + name] = was
        yield Notice("success", was.value, since=was.since, label="over")


def _troubles(facts: Facts, book: dict[str, NoticeRecord], now: datetime) -> Iterator[Notice]:
    for trouble in facts.troubles:
        key = _TROUBLE + trouble.key
        known = book.get(key)
        since = trouble.since or (known.since if known else now)
        said_at = known.notified_at if known else None
        book[key] = NoticeRecord(trouble.over, since, said_at)
        if _is_due(trouble, since, said_at, book.get(_REST + trouble.key), now):
            book[key] = NoticeRecord(trouble.over, since, now)
            book.pop(_REST + trouble.key, None)
            yield Notice(
                trouble.severity, trouble.headline, trouble.detail, since, trouble.next_step, "still" if said_at else ""
            )


def _is_due(
    trouble: Trouble, since: datetime, said_at: datetime | None, rest: NoticeRecord | None, now: datetime
) -> bool:
    if said_at is not None:
        return now - said_at >= AGAIN_AFTER
    return rest is None and now - since >= trouble.patience


def _news(news: tuple[Occurrence, ...], book: dict[str, NoticeRecord], now: datetime) -> Iterator[Notice]:
    for one in news:
        known = book.get(_NEWS + one.key)
        if known is None or known.value != one.mark:
            book[_NEWS + one.key] = NoticeRecord(one.mark, now, now)
            yield Notice(one.severity, one.headline, one.detail)
