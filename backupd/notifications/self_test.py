"""What a doctor finds of messages: whether they get through, and, on request, whether they do so now."""

from collections.abc import Iterator
from datetime import datetime

from backupd.catalog import NotificationState
from backupd.formatting import counted
from backupd.notifications.apprise_sender import Sender
from backupd.notifications.collector import App, check_app
from backupd.notifications.message import Channel, Message, compose_lines
from backupd.notifications.outbox import REFUSED
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor import Finding

_CHECK = "messages"
_HINT = "see what the service needs at https://github.com/caronc/apprise/wiki, then: backupd notify --test"
_TEST = ("This is a test: messages from backupd get here.", "Trouble is told here, with what to do about it.")


def examine_messages(scope: str, context: TaskContext) -> Iterator[Finding]:
    """Yield a finding where messages wait because a channel does not take them."""
    book = context.ask_catalog(lambda catalog: catalog.read_notification_state(scope), NotificationState())
    waiting = [one for one in book.outbox if one.attempts]
    if waiting:
        refused = book.notices[REFUSED].value if REFUSED in book.notices else ""
        what = (
            f"{counted(len(waiting), 'message')} could not be sent yet, since {waiting[0].made_at:%F %T} UTC: {refused}"
        )
        yield Finding(_CHECK, ok=False, detail=what, hint=_HINT)


def examine_app(app: App) -> Iterator[Finding]:
    """Yield whether the app beside is well and tells which version it is: without one no deploy can be told."""
    seen = check_app(app)
    if seen.trouble:
        yield Finding("app", ok=False, detail=seen.trouble, hint="is it running, and is [app].health_url right?")
    elif seen.version is None:
        hint = "set version, version_file, version_header or version_field under [app]: docs/messages.md"
        yield Finding("app", ok=False, detail="it is well, and tells no version: its deploys are not told", hint=hint)
    else:
        yield Finding("app", ok=True, detail=f"it is well, version {seen.version}")


def examine_channels(channels: tuple[Channel, ...], name: str, now: datetime) -> Iterator[Finding]:
    """Send a test message to each channel, and yield a finding for each."""
    for channel, reason in Sender().send(trial(name, now), channels).items():
        detail = f"{channel.masked} {f'did not take it: {reason}' if reason else 'took a test message'}"
        yield Finding(_CHECK, ok=not reason, detail=detail, hint=_HINT if reason else "")


def trial(name: str, now: datetime) -> Message:
    """Return what is sent to try the channels."""
    return compose_lines(_TEST, "test message", name, now)
