"""Messages about deploys: one for each that has ended, by the channels of [notify]."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from time import monotonic
from typing import Final

from backupd.formatting import human_duration
from backupd.gate.model import Deploy, DeployState, Gate
from backupd.gate.outcome import SEVERITIES, duration_s, last_lines, way_back
from backupd.log import Event, EventLog
from backupd.notifications.apprise import TIMEOUT_S, Sender
from backupd.notifications.message import Channel, Message, compose
from backupd.notifications.planner import Notice
from backupd.runbook import DOCS_URL
from backupd.web.localizer import Localizer

_HEADLINES: Final[dict[DeployState, str]] = {
    "deployed": "deploy OK: {gate} {version} in {took}{backup}",
    "stopped": "deploy stopped at {step}: {gate} {version}; production is unchanged",
    "unhealthy": "deploy unhealthy: {gate} {version} did not come up",
    "interrupted": "deploy interrupted at {step}: {gate} {version}",
}
_NEXT_STEPS: Final[dict[DeployState, str]] = {
    "stopped": "fix the cause, then push again, or redeliver the webhook in Forgejo",
    "unhealthy": "if it cannot be fixed at once, go back as below",
    "interrupted": "check which version the app reports, then push again, or redeliver the webhook in Forgejo",
}
_HINT: Final = "check its URL under [notify] with backupd notify --test"
_MAX_NAME: Final = 80
_MAX_REF: Final = 120
# Beside the output of the tests, a message has the way back or the backup, and fits every service.
_MAX_OUTPUT: Final = 1_600


def compose_deploy(
    deploy: Deploy,
    gate: Gate,
    name: str,
    zone: tzinfo,
    now: datetime,
    *,
    output: str = "",
    before: Deploy | None = None,
    docs_url: str = DOCS_URL,
) -> Message | None:
    """Return the message on a deploy that has ended, from the backupd called `name`; None for one that was superseded.

    `output` is the end of what its tests printed, `before` the last deploy that came up.
    """
    if deploy.state not in _HEADLINES:
        return None
    localizer, step = Localizer("en", zone), deploy.failure or (deploy.steps[-1] if deploy.steps else None)
    failed = deploy.state != "deployed"
    headline = _HEADLINES[deploy.state].format(
        gate=deploy.gate[:_MAX_NAME],
        version=deploy.push.version[:_MAX_NAME],
        step=localizer.translate(f"step.{step.name}") if step else "its beginning",
        took=human_duration(duration_s(deploy, now)),
        backup=f", backup {deploy.generations[0][:_MAX_NAME]} kept" if deploy.generations else "",
    )
    hint = step.hint if step and failed else ""
    notice = Notice(
        SEVERITIES[deploy.state],
        headline,
        detail=step.detail if step and failed else "",
        next_step="; ".join(filter(None, (hint, _NEXT_STEPS.get(deploy.state)))),
        topic="deploy" if failed else None,
        lines=(
            *_facts(deploy, gate),
            *(f"{number}. {line}" for number, line in enumerate(way_back(deploy, gate, before, localizer), start=1)),
            *_output(deploy, output),
        ),
    )
    return compose((notice,), name, zone, now, docs_url)


class DeployMessenger:
    """Sends messages to `channels` in a thread of its own; a channel that fails is tried again after each of `waits_s`.

    What a channel has not accepted by then is dropped, and logged; a deploy neither waits nor fails for it.
    """

    def __init__(
        self,
        channels: tuple[Channel, ...],
        log: EventLog,
        sender: Sender | None = None,
        waits_s: tuple[float, ...] = (15, 60, 300, 900),
    ) -> None:
        self._channels, self._log, self._sender, self._waits_s = channels, log, sender or Sender(), waits_s
        self._pending = list[_Pending]()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="messages", daemon=True)

    def start(self) -> None:
        """Start the thread, where there is a channel."""
        if self._channels:
            self._thread.start()

    def send(self, message: Message | None) -> None:
        """Send a message soon; return at once."""
        if message is not None and self._channels:
            self._put(_Pending(self._log.mask.of(message), self._channels, 0, monotonic()))

    def stop(self) -> None:
        """Send nothing more, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._sender.stop()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT_S)

    def _put(self, pending: "_Pending") -> None:
        with self._changed:
            self._pending.append(pending)
            self._changed.notify_all()

    def _run(self) -> None:
        while (pending := self._next()) is not None:
            try:
                self._attempt(pending)
            except Exception as error:  # noqa: BLE001 - the thread must survive any defect
                what = f"notifications failed: {type(error).__name__}: {error}"
                self._log.error(Event.NOTIFICATION_FAILED, what, hint="report this with backup.log")

    def _next(self) -> "_Pending | None":
        """Wait for the message that is due next; None once nothing more is to be sent."""
        with self._changed:
            while not self._stopping:
                first = min(self._pending, key=lambda one: one.due_at, default=None)
                if first is not None and first.due_at <= monotonic():
                    self._pending.remove(first)
                    return first
                self._changed.wait(first.due_at - monotonic() if first else None)
            return None

    def _attempt(self, pending: "_Pending") -> None:
        answers = self._sender.send(pending.message, pending.channels)
        errors = {channel: self._log.mask(error) for channel, error in answers.items()}
        if self._stopping:
            return
        title, failed = pending.message.title, tuple(channel for channel, error in errors.items() if error)
        accepted = len(errors) - len(failed)
        if accepted:
            self._log.info(Event.MESSAGE_SENT, f"sent to {accepted} of {len(errors)} channels: {title}")
        again = pending.attempts < len(self._waits_s)
        for channel in failed:
            what = f"{channel.masked} did not accept the message “{title}”: {errors[channel]}"
            event = Event.MESSAGE_FAILED if again else Event.MESSAGE_DROPPED
            self._log.warning(event, f"{what}; {'backupd tries again' if again else 'it is dropped'}", hint=_HINT)
        if failed and again:
            due_at = monotonic() + self._waits_s[pending.attempts]
            self._put(_Pending(pending.message, failed, pending.attempts + 1, due_at))


@dataclass(frozen=True, slots=True)
class _Pending:
    """A message that `channels` have not accepted in `attempts`; `due_at` is a time of the monotonic clock."""

    message: Message
    channels: tuple[Channel, ...]
    attempts: int
    due_at: float


def _facts(deploy: Deploy, gate: Gate) -> Iterator[str]:
    push = deploy.push
    yield f"pushed: by {push.pusher[:_MAX_NAME]} to {push.ref[:_MAX_REF]}, commit {push.commit[:10]}"
    if deploy.version_before:
        yield f"before: {deploy.version_before[:_MAX_NAME]}"
    if deploy.generations:
        backup = next((step.detail for step in deploy.steps if step.name == "backup"), "")
        yield f"backup: {', '.join(deploy.generations)} kept{f' ({backup})' if backup else ''}"
    if gate.page_url:
        yield f"page: {gate.page_url}"


def _output(deploy: Deploy, output: str) -> Iterator[str]:
    """Yield the last lines of the tests that failed, as many as a message has room for."""
    lines = last_lines(output) if deploy.failure and deploy.failure.name == "tests" else ()
    size, first = 0, len(lines)
    while first and size + len(lines[first - 1]) < _MAX_OUTPUT:
        first -= 1
        size += len(lines[first]) + 1
    if lines[first:]:
        yield "end of the tests' output:"
        yield from lines[first:]
