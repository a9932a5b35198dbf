"""An app that tells neither that it is well nor its version: a deploy that does not come up, or an outage; pure.

Which of the two it is nobody can see from beside it, and the commonest broken deploy is one that never answers.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from backupd.catalog import Told
from backupd.spans import human_span
from backupd.told.plan import Item, believed

# An app that comes and goes is told as fallen silent no more often than this; what is silent then is told then.
APART = timedelta(hours=1)
_OVER = "over"


def silence_ended(kept: Told | None, now: datetime) -> Told | None:
    """Return what is still to be remembered of a silence that is over: that it was told a short while ago."""
    recent = kept and kept.told_at and now - kept.told_at < APART
    return replace(kept, value=_OVER) if kept and recent else None


def silence_now(kept: Told | None, now: datetime) -> Told:
    """Return the silence that goes on: `kept`, or where that one is over one that begins `now`."""
    if kept is None or kept.value == _OVER:
        return Told("", now, kept.told_at if kept else None)
    return believed(kept, now)


def silence_verdict(what: str, trouble: str, silence: Told, timeout: timedelta, now: datetime) -> Item | None:
    """Return what is to be said of `what` once it has been silent for `timeout`; each silence is told once."""
    told_at = silence.told_at
    if told_at is not None and (told_at >= silence.since or now - told_at < APART):
        return None
    lasted = now - silence.since
    if lasted < timeout:
        return None
    detail = f"for {human_span(lasted.total_seconds())}: {trouble}"
    next_step = "look at its log: if a deploy has not come up, deploy the version before it again"
    headline = f"deploy unhealthy: {what} tells neither that it is well nor its version"
    return Item("failure", headline, detail, silence.since, next_step)
