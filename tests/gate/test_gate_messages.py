"""Messages on deploys: their exact text, which fits every service, and their delivery with retries.

After an intended change, write the golden files again, and read the difference:

    PYTHONPATH=tests python tests/gate/test_gate_messages.py --write-golden && git diff tests/golden/deploy-messages
"""

import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backupd.formatting import printable
from backupd.gate.messages import DeployMessenger, compose_deploy
from backupd.gate.model import Deploy
from backupd.log import Event, EventLog
from backupd.masking import Mask
from backupd.notifications.apprise import Sender
from backupd.notifications.message import Channel, Message
from support.gate_states import NOW, OUTPUT, SECRETS, TASKS, deployed, interrupted, stopped, superseded, unhealthy

GOLDEN = Path(__file__).parents[1] / "golden" / "deploy-messages"
BERLIN = ZoneInfo("Europe/Berlin")
CHANNELS = (Channel.of("json://one.example"), Channel.of("json://two.example"))


def message_on(deploy: Deploy, output: str = OUTPUT) -> Message | None:
    return compose_deploy(deploy, TASKS, "shop", BERLIN, NOW, output=output, before=deployed())


def texts() -> dict[str, str]:
    """Return every golden text by the name of its file."""
    deploys = {
        "deployed": deployed(),
        "stopped": stopped(),
        "unhealthy": unhealthy(),
        "interrupted": interrupted(),
        "without-steps": replace(interrupted(), steps=(), generations=()),
    }
    found = {name: message_on(deploy) for name, deploy in deploys.items()}
    return {name: f"{one.severity}\n{one.title}\n\n{one.body}\n" for name, one in found.items() if one}


def test_message_on_each_outcome_matches_its_golden_text() -> None:
    assert texts() == {path.stem: path.read_text() for path in GOLDEN.iterdir()}


def test_superseded_deploy_is_not_reported() -> None:
    assert message_on(superseded()) is None


def test_no_secret_is_in_message() -> None:
    assert [secret for secret in SECRETS if secret in "".join(texts().values())] == []


def test_hostile_and_endless_text_is_printable_and_fits_every_service() -> None:
    nasty = "\x1b]0;owned\x07\u202e\r\n" + "W" * 10_000
    for base in (stopped(), unhealthy(), deployed()):
        push = replace(base.push, ref=f"refs/tags/{nasty}", pusher=nasty, commit=nasty)
        steps = tuple(replace(one, detail=nasty, hint=nasty) for one in base.steps)
        spoilt = replace(base, gate=nasty, push=push, steps=steps, generations=(nasty,) * 30, version_before=nasty)
        message = message_on(spoilt, output=f"{nasty}\n" * 300)
        assert message
        assert len(message.title) + len(message.body) < 4_096
        assert all(printable(line) == line for line in (message.title, *message.body.split("\n")))


def test_stopped_message_has_last_lines_of_tests_that_fit() -> None:
    message = message_on(stopped(), output="".join(f"line {number}\n" for number in range(500)))
    assert message
    lines = message.body.split("\n")
    assert "line 499" in lines
    assert "line 300" not in lines, "there is no room for 200"
    assert lines.index("line 450") > lines.index("end of the tests' output:")


class ScriptedSender(Sender):
    """Refuses each message to a channel as often as told, and records what it was given."""

    def __init__(self, refusals: Mapping[Channel, int]) -> None:
        super().__init__()
        self.refusals, self.sent = dict(refusals), list[tuple[str, tuple[str, ...]]]()

    def send(self, message: object, channels: Sequence[Channel]) -> dict[Channel, str]:
        assert isinstance(message, Message)
        self.sent.append((message.title, tuple(channel.url for channel in channels)))
        answers = {}
        for channel in channels:
            answers[channel] = "it is full" if self.refusals.get(channel, 0) > 0 else ""
            self.refusals[channel] = self.refusals.get(channel, 0) - 1
        return answers


class Recorder(logging.Handler):
    """Keeps events and messages, and tells when one has come."""

    def __init__(self) -> None:
        super().__init__()
        self.lines, self.changed = list[tuple[str, str]](), threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.changed:
            self.lines.append((getattr(record, "event.action"), record.getMessage()))
            self.changed.notify_all()

    def wait_for(self, event: Event, count: int = 1) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: [name for name, _ in self.lines].count(event) >= count, 30), self.lines


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def log(recorder: Recorder) -> Iterator[EventLog]:
    logger = logging.getLogger("backupd.test_gate_messages")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(recorder)
    yield EventLog(logger, Mask((SECRETS[0],)))
    logger.removeHandler(recorder)


def test_channel_that_fails_is_tried_again_alone(log: EventLog, recorder: Recorder) -> None:
    sender = ScriptedSender({CHANNELS[1]: 2})
    messenger = DeployMessenger(CHANNELS, log, sender, waits_s=(0.01, 0.01, 60))
    messenger.start()
    messenger.send(message_on(deployed()))
    recorder.wait_for(Event.MESSAGE_SENT, 2)
    messenger.stop()
    urls = tuple(channel.url for channel in CHANNELS)
    assert [to for _, to in sender.sent] == [urls, urls[1:], urls[1:]]
    failed = [line for name, line in recorder.lines if name == Event.MESSAGE_FAILED]
    assert len(failed) == 2
    assert "it is full; backupd tries again" in failed[0]


def test_message_is_dropped_after_last_attempt_and_next_one_is_sent(log: EventLog, recorder: Recorder) -> None:
    sender = ScriptedSender({CHANNELS[0]: 2})
    messenger = DeployMessenger(CHANNELS[:1], log, sender, waits_s=(0.01,))
    messenger.start()
    messenger.send(message_on(deployed()))
    recorder.wait_for(Event.MESSAGE_DROPPED)
    messenger.send(message_on(stopped()))
    recorder.wait_for(Event.MESSAGE_SENT)
    messenger.stop()
    assert len(sender.sent) == 3


def test_message_waits_for_no_other(log: EventLog, recorder: Recorder) -> None:
    sender = ScriptedSender({CHANNELS[0]: 1})
    messenger = DeployMessenger(CHANNELS[:1], log, sender, waits_s=(3_600,))
    messenger.start()
    messenger.send(message_on(deployed()))
    recorder.wait_for(Event.MESSAGE_FAILED)
    messenger.send(message_on(stopped()))
    recorder.wait_for(Event.MESSAGE_SENT)
    messenger.stop()
    assert "deploy stopped" in sender.sent[1][0]


def test_secret_is_masked_and_defect_of_sender_ends_no_thread(log: EventLog, recorder: Recorder) -> None:
    class Broken(ScriptedSender):
        def send(self, message: object, channels: Sequence[Channel]) -> dict[Channel, str]:
            if not self.sent:
                super().send(message, channels)
                raise ValueError(SECRETS[0])
            return super().send(message, channels)

    sender = Broken({})
    messenger = DeployMessenger(CHANNELS[:1], log, sender, waits_s=())
    messenger.start()
    leaky = replace(deployed(), push=replace(deployed().push, ref=f"refs/tags/{SECRETS[0]}"))
    messenger.send(message_on(leaky))
    recorder.wait_for(Event.NOTIFICATION_FAILED)
    messenger.send(message_on(leaky))
    recorder.wait_for(Event.MESSAGE_SENT)
    messenger.stop()
    assert "[secret]" in sender.sent[1][0]
    assert SECRETS[0] not in str((sender.sent, recorder.lines))


def test_without_channels_nothing_is_sent(log: EventLog, recorder: Recorder) -> None:
    sender = ScriptedSender({})
    messenger = DeployMessenger((), log, sender)
    messenger.start()
    messenger.send(message_on(deployed()))
    messenger.stop()
    assert (sender.sent, recorder.lines) == ([], [])


if __name__ == "__main__" and sys.argv[1:] == ["--write-golden"]:
    for name, text in texts().items():
        (GOLDEN / f"{name}.txt").write_text(text)
