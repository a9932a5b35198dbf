"""Messages reach real services through the real Apprise, in a separate process that keeps its secrets."""

import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.bootstrap.notifications import notification_options
from backupd.catalog import NoticeRecord, NotificationState, OutboxMessage, open_catalog
from backupd.config import load_config
from backupd.masking import without_secrets
from backupd.notifications.apprise import Sender
from backupd.notifications.message import Channel, Message, parse_channels
from support.command import Backupd
from support.daemon import children_of, free_port, wait_until
from support.recording_server import HANG, HANG_UP, CannedResponse, ReceivedRequest, recording_server

MESSAGE = Message("failure", "backupd tasks: the backup of tasks failed", "The backup of tasks failed\n\nref 1", "1")
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def json_url(port: int, path: str = "hunter2-path") -> str:
    return f"json://hunter2-user:hunter2-pass@127.0.0.1:{port}/{path}?cto=2&rto=2"


def test_failing_service_does_not_prevent_messages_to_others() -> None:
    def answering(asked: ReceivedRequest) -> CannedResponse:
        moved = CannedResponse(
            302, headers={"Location": "/login"}
        )  # where a GET without the message would be answered by 200
        answers = {"/broken": CannedResponse(500), "/away": HANG_UP, "/hangs": HANG, "/moved": moved}
        return answers.get(asked.path, CannedResponse())

    with recording_server(answering) as there:
        urls = [json_url(there.port, path) for path in ("well", "broken", "away", "hangs", "moved")]
        channels = parse_channels([*urls, json_url(free_port()), "hunter2://x", "hunter2-no-url"])
        reasons = Sender().send(MESSAGE, channels)
        well = next(asked for asked in there.requests if asked.path == "/well")
    assert well.json["title"] == MESSAGE.title
    assert well.json["message"] == MESSAGE.body
    assert well.json["type"] == "failure"
    said = [reasons[channel] for channel in channels]
    assert said[0] == ""
    assert "error=500" in said[1]
    assert "error=302" in said[4]
    assert all(said[1:])
    assert said[6] == said[7] == "Apprise cannot use this URL: see its page of the service for what it needs"
    assert "hunter2" not in "".join(said)


def test_hanging_sender_is_ended_in_time_and_leaves_no_process() -> None:
    sleeper = Sender([sys.executable, "-c", "import time; time.sleep(600)"], timeout_s=0.5)
    channel = Channel.of("json://x")
    assert sleeper.send(MESSAGE, [channel]) == {channel: "the sending process did not end within 0 s"}
    dead = Sender([sys.executable, "-c", "raise SystemExit(9)"])
    assert dead.send(MESSAGE, [channel]) == {channel: "the sending process ended with code 9"}
    babbler = Sender([sys.executable, "-c", "print([1, 2, 3])"])
    assert babbler.send(MESSAGE, [channel]) == {channel: "the sending process ended with code 0"}
    missing = Sender(["/no/such/program"])
    assert missing.send(MESSAGE, [channel]) == {
        channel: "the sending process could not be started: No such file or directory"
    }


def test_sender_stopped_from_another_thread_ends_at_once_and_stays_stopped() -> None:
    sender = Sender([sys.executable, "-c", "import time; time.sleep(600)"])
    thread = threading.Thread(target=sender.send, args=(MESSAGE, [Channel.of("json://x")]))
    thread.start()
    wait_until(lambda: sender._process is not None, "the process")
    began = time.monotonic()
    sender.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert time.monotonic() - began < 30
    assert set(sender.send(MESSAGE, [Channel.of("json://x")]).values()) == {"the daemon is stopping"}


def test_child_has_no_secret_in_process_list_and_writes_only_response() -> None:
    with recording_server(HANG) as there:
        message = {"severity": "info", "title": "t", "body": "b"}
        order = {"message": message, "urls": [json_url(there.port)]}
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "backupd.notifications.apprise"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert child.stdin is not None
        child.stdin.write(json.dumps(order).encode())
        child.stdin.close()
        child.stdin = None
        there.wait_for(1)
        for name in ("cmdline", "environ", "comm"):
            assert b"hunter2" not in Path(f"/proc/{child.pid}/{name}").read_bytes()
        assert children_of(child.pid) == []
        out, err = child.communicate(timeout=60)
        assert err == b""
        (reason,) = json.loads(out)
        assert reason
        assert "hunter2" not in reason


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("tgram://123456:hunter2/987", "tgram://[secret]"),
        ("MAILTOS://me:hunter2@example.com", "mailtos://[secret]"),
        ("ntfy://hunter2", "ntfy://[secret]"),
        ("hunter2", "[secret]"),
        ("", "[secret]"),
    ],
)
def test_masked_url_shows_only_its_service(url: str, shown: str) -> None:
    assert Channel.of(url).masked == shown
    assert url == "" or url not in repr(Channel.of(url))


def test_every_part_of_a_url_is_masked_quoted_and_unquoted() -> None:
    url = "mailtos://me%40home:p%40ss+word@smtp.example.com:465/?to=you@example.com"
    text = "cannot log in to smtp.example.com as me@home with p@ss word, p%40ss+word\nfor you@example.com"
    masked = without_secrets(text, url)
    assert masked == "cannot log in to [secret] as [secret] with [secret], [secret] for you@[secret]"
    quoted = "no /api/p%40ss%20WORD, ME%40HOME nor t%c3%b6ken"
    assert without_secrets(quoted, f"{url}&token=töken") == "no /api/[secret], [secret] nor [secret]"


def test_duplicate_channel_is_one_channel() -> None:
    channels = parse_channels(["json://a", "ntfy://b", "json://a", "json://c"])
    assert [channel.masked for channel in channels] == [
        "json://[secret] (URL 1)",
        "ntfy://[secret]",
        "json://[secret] (URL 3)",
    ]


def test_notify_and_doctor_report_for_each_url_whether_it_accepts_a_message(backupd: Backupd) -> None:
    assert backupd("notify", "--test").code == 2
    with recording_server(lambda asked: CannedResponse(200 if asked.path == "/well" else 500)) as there:
        urls = f"{json_url(there.port, 'well')},{json_url(there.port, 'ill')}"
        answer = backupd("notify", "--test", BACKUPD_NOTIFY__URLS=urls)
        assert answer.code == 1
        assert answer.out.splitlines()[0] == "json://[secret] (URL 1) accepted a test message"
        assert answer.out.splitlines()[1].startswith(
            "json://[secret] (URL 2) refused the test message: Failed to send JSON"
        )
        assert "hunter2" not in answer.out + answer.err
        assert {asked.json["title"] for asked in there.requests} == {"backupd tasks: test message"}
        found = backupd("doctor", "--notify", "--json", BACKUPD_NOTIFY__URLS=json_url(there.port, "well"))
        assert found.code == 0
        assert [one["ok"] for one in found.json if one["check"] == "messages"] == [True]


def test_notify_shows_delivery(backups: Path, tmp_path: Path) -> None:
    backups.mkdir()
    (backups / ".backupd").mkdir()
    outbox_message = OutboxMessage("ref", NOW, "failure", "bad news", "body", frozenset({"key"}), 3, NOW)
    told = {"refused": NoticeRecord("json://[secret]: error=500", NOW, NOW), "accepted": NoticeRecord("", NOW, NOW)}
    with open_catalog(backups / ".backupd" / "catalog.sqlite3") as catalog:
        catalog.write_notification_state("tasks", NotificationState(told, (outbox_message,)))
    environ = {
        "BACKUPD_DATABASE": "/app/data/tasks.db",
        "BACKUPD_BACKUPS_DIR": str(backups),
        "BACKUPD_NOTIFY__URLS": "json://hunter2",
    }
    backupd = Backupd(environ, tmp_path)
    assert backupd("notify").out.splitlines() == [
        "channels  json://[secret]",
        "accepted  2026-11-25 12:00 UTC",
        "refused   2026-11-25 12:00 UTC: json://[secret]: error=500",
        "waiting   since 2026-11-25 12:00 UTC, 3 attempts: bad news",
    ]
    facts = backupd("notify", "--json").json
    assert (facts["channels"], facts["waiting"][0]["attempts"]) == (["json://[secret]"], 3)


def test_configuration_becomes_notification_options() -> None:
    environ = {
        "BACKUPD_DATABASE": "/app/data/tasks.db",
        "BACKUPD_NOTIFY__URLS": "json://a,json://b",
        "BACKUPD_NOTIFY__DIGEST": "mon 08:00",
        "BACKUPD_APP__HEALTH_URL": "http://app/health",
        "BACKUPD_APP__DEPLOY_TIMEOUT_S": "60",
        "BACKUPD_PINGS__DAILY": "https://kuma.example/api/push/x",
    }
    order = notification_options(load_config(None, environ, Path("/no/such/directory")))
    assert (order.scope, order.name, len(order.channels)) == ("tasks", "tasks", 2)
    assert order.digest is not None
    assert order.app is not None
    assert order.app.timeout.total_seconds() == 60
    assert order.daily is not None
    assert order.daily.kind == "uptime-kuma"
