"""No output contains a secret of the configuration that a service, a command or the app repeats.

A process masks what it was given. A run gets the secrets that it needs, and those who answer it know no others.
"""

import base64
import html
import http.client
import json
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.masking import MASK, Mask
from support.command import Backupd
from support.daemon import running_daemon, wait_until
from support.recording_server import CannedResponse, ReceivedRequest, RecordingServer, recording_server

TOKEN = "tok&n <with> 'zebra' \"and\" ünïcode"
PASSWORD = "hunter2-of-the-nas"
LINES = [base64.b64encode(bytes(range(start, start + 48))).decode() for start in (0, 48, 96)]
KEY = "\n".join(("-----BEGIN OPENSSH PRIVATE KEY-----", *LINES, "-----END OPENSSH PRIVATE KEY-----"))
QUERY = "key=k3y%2Bof-the-app&probe=1"
TOPIC = "topic9-of-the-operator"
UUID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
# The parts by which a leak is recognised, in whatever form they were written.
TELLTALES = ("zebra", "hunter2", *(line[8:40] for line in LINES), "k3y", "topic9", UUID[4:])


def forms(secret: str) -> list[str]:
    """Return the secret as programs print it."""
    as_url = [quote(secret), quote(secret, ""), quote_plus(secret)]
    return [
        secret,
        repr(secret),
        shlex.quote(secret),
        json.dumps(secret),
        html.escape(secret),
        " ".join(secret.split()),
        *as_url,
    ]


def echo_all(there: RecordingServer) -> str:
    """Return what a drill's command says: every secret that it may know, in every form."""
    secrets = (PASSWORD, KEY, QUERY)
    said = "\n".join(form for secret in secrets for form in forms(secret))
    return f"postgres://app:hunter2@db/app\nAuthorization: Basic hunter2hunter2\n{said}\n{there.url(f'/?{QUERY}')}"


@pytest.fixture
def there() -> Iterator[RecordingServer]:
    """Services that fail, and repeat secrets in body and headers."""

    def answer(asked: ReceivedRequest) -> CannedResponse:
        of_daemon = (TOKEN, TOPIC, UUID) if asked.path in ("/health", f"/{TOPIC}") else ()
        of_drill = () if UUID in asked.path else (PASSWORD, " ".join(LINES), QUERY)
        said = "; ".join((asked.target, *of_drill, *of_daemon))
        return CannedResponse(404, said.encode(), {"X-Version": f"1.0 {PASSWORD}"})

    with recording_server(answer) as server:
        yield server


@pytest.fixture
def revealing(backupd: Backupd, there: RecordingServer, tmp_path: Path) -> Backupd:
    """A backupd with every kind of secret, and a drill whose command prints them all."""
    (tmp_path / "said.txt").write_text(echo_all(there), encoding="utf-8")
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "replica").mkdir()
    secrets = {
        "HTTP__TOKEN": TOKEN,
        "REPLICAS__NAS__URL": f"file:{tmp_path}/replica/app",
        "REPLICAS__NAS__PASSWORD": PASSWORD,
        "REPLICAS__NAS__PRIVATE_KEY_FILE": str(tmp_path / "key"),
        "DRILL__COMMAND": f"sh -c 'cat {tmp_path}/said.txt; exit 3'",
        "DRILL__TIMEOUT_S": "1",
        "APP__HEALTH_URL": there.url(f"/health?{QUERY}"),
        "APP__VERSION_HEADER": "X-Version",
        "APP__DEPLOY_TIMEOUT_S": "1",
        "NOTIFY__URLS": f"json://127.0.0.1:{there.port}/{TOPIC}",
        "NOTIFY__DIGEST": "* * * * *",
        "PINGS__BACKUP": there.url(f"/{UUID}"),
        "PINGS__DRILL": there.url(f"/{UUID}"),
    }
    return Backupd({**backupd.environ, **{f"BACKUPD_{name}": value for name, value in secrets.items()}}, backupd.cwd)


def leaks(text: str) -> list[str]:
    return [telltale for telltale in TELLTALES if telltale.lower() in text.lower()]


def asked_with_token(port: int, path: str) -> str:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", path, headers={"Authorization": b"Bearer " + TOKEN.encode()})
        return connection.getresponse().read().decode()


def catalog_text(backups: Path) -> str:
    """Return every value of every table of the catalog."""
    with closing(sqlite3.connect(backups / ".backupd" / "catalog.sqlite3")) as catalog:
        return "\n".join(catalog.iterdump())


def test_commands_print_no_secret_repeated_by_service_or_command(
    revealing: Backupd, backups: Path, there: RecordingServer
) -> None:
    answers = [
        revealing("backup"),
        revealing("replicate"),
        revealing("drill"),
        revealing("drill", "--json"),
        revealing("drill", BACKUPD_DRILL__COMMAND="true", BACKUPD_DRILL__HEALTH_URL=there.url(f"/?{QUERY}")),
        revealing("doctor", "--notify", "--json"),
        revealing("notify", "--test"),
        revealing("notify"),
        revealing("status"),
        revealing("status", "--json"),
        revealing("log"),
        revealing("config", "show", "--json"),
    ]
    for answer in answers:
        assert leaks(answer.out + answer.err) == [], answer.out + answer.err
    assert answers[3].json[0]["drill"]["output"].count(MASK) > 10, "the command has printed them"
    assert "did not answer 200" in answers[4].err
    assert leaks((backups / "backup.log").read_text()) == []
    assert leaks(catalog_text(backups)) == []
    bodies = [asked.body.decode(errors="replace") for asked in there.requests]
    assert any(MASK in body for body in bodies), "the monitor got what the run said"
    assert leaks("\n".join(bodies)) == []


def test_daemon_serves_and_sends_no_secret(revealing: Backupd, backups: Path, there: RecordingServer) -> None:
    revealing("backup")
    revealing("replicate")
    revealing("drill")
    with running_daemon(revealing) as daemon:
        daemon.wait_until_alive()
        wait_until(lambda: any(b"deploy unhealthy" in asked.body for asked in there.requests), "a message")
        wait_until(lambda: "did not accept the message" in (backups / "backup.log").read_text(), "its refusal")
        pages = [asked_with_token(daemon.port, path) for path in ("/health", "/livez", "/metrics", "/", "/api/status")]
    assert MASK in pages[-1], "the failed drill is in it"
    assert [leaks(page) for page in pages] == [[]] * len(pages)
    assert leaks(daemon.said() + (backups / "backup.log").read_text() + catalog_text(backups)) == []
    assert leaks("\n".join(asked.body.decode(errors="replace") for asked in there.requests)) == []


# --- The mask itself ---


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=4), st.text(max_size=9), st.text(max_size=9))
def test_secret_is_masked_in_every_form(secret: str, before: str, after: str) -> None:
    mask = Mask([secret])
    if secret.strip():
        for form in forms(secret):
            assert secret not in mask(f"{before}{form}{after}") or secret in before + MASK + after


@pytest.mark.parametrize("secret", [PASSWORD, LINES[0], TOPIC])
def test_secret_that_was_cut_off_is_masked(secret: str) -> None:
    mask = Mask([secret])
    for at in range(12, len(secret)):
        assert mask(f"said: {secret[:at]}") == f"said: {MASK}"
        assert mask(f"{secret[-at:]} was said") == f"{MASK} was said"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("cannot reach postgres://app:pa55@db/x", f"cannot reach postgres://app:{MASK}@db/x"),
        ("cannot reach postgres://app:p@5s@db/x", f"cannot reach postgres://app:{MASK}@db/x"),
        ("https://ghp_16C7e42F292c6912E7710c838347@github.com/x", f"https://{MASK}@github.com/x"),
        ("curl: PRIVATE-TOKEN: glpat-abc", f"curl: PRIVATE-TOKEN: {MASK}"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("> Authorization: Bearer abc.def\n> Host: x", f"> Authorization: {MASK}\n> Host: x"),
        ("{'Cookie': 'id=7'}", f"{{'Cookie': '{MASK}'}}"),
        ("sftp://backup@nas:22/backups", "sftp://backup@nas:22/backups"),
    ],
)
def test_passwords_and_keys_of_others_are_masked_by_context(text: str, masked: str) -> None:
    assert Mask()(text) == masked


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        (f"https://hc-ping.com/{UUID}/backup-tasks", "hc-ping.com did not accept the backup-tasks ping"),
        ("mailtos://me:pa55word@smtp.example.com", "smtp.example.com: me is unknown"),
        ("ntfy://example.com/alerts", "alerts are sent to example.com"),
    ],
)
def test_harmless_words_of_secret_url_are_shown(url: str, kept: str) -> None:
    assert Mask([url])(kept) == kept


def test_short_secret_is_masked_as_whole_word_only() -> None:
    assert Mask(["abc"])("abc, abcd and ABC") == f"{MASK}, abcd and {MASK}"


def test_megabyte_is_masked_in_bounded_time() -> None:
    mask = Mask([KEY, TOKEN, PASSWORD, f"https://hc-ping.com/{UUID}"])
    began = time.process_time()
    for hostile in ("://" * 300_000, "a:" * 500_000, "authorization:" * 70_000, LINES[0][:40] * 25_000):
        mask(hostile)
    assert time.process_time() - began < 5
