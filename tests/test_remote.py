"""The client of a sidecar, where what answers is busy, broken, hostile, or not backupd."""

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backupd.errors import (
    BackupdError,
    CopyCorrupt,
    NoSpace,
    RemoteBackupFailed,
    SidecarBusy,
    SidecarRefused,
    SidecarUnreachable,
)
from backupd.remote.run import RemoteRun, RemoteSource, read_run, run_facts
from backupd.remote.sidecar import Sidecar, require_address, sends_token_in_clear
from support.door import NOON
from support.recording_server import CannedResponse, ReceivedRequest, RecordingServer, recording_server

TOKEN = "token-to-request-backups"
DOWNLOAD_TOKEN = "token-to-fetch-archives"
ARCHIVE = bytes(range(256)) * 1000
DIGEST = f"sha-256=:{b64encode(hashlib.sha256(ARCHIVE).digest()).decode()}:"
SOURCE = RemoteSource(source="tasks", state="ended", outcome="published", generation="tasks-20261125-1200", exit_code=0)
ENDED = RemoteRun(id="run-1", requested_at=NOON, ended_at=NOON, sources=(SOURCE,))
WAITING = RemoteRun(id="run-1", requested_at=NOON, sources=(RemoteSource(source="tasks"),))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backupd.remote.sidecar._PAUSE_S", 0.01)
    monkeypatch.setattr("backupd.remote.sidecar._LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr("backupd.remote.sidecar.RESTART_S", 0.1)


def of_run(run: RemoteRun, status: int = 200) -> CannedResponse:
    return CannedResponse(status, json.dumps(run_facts(run)).encode())


def of_error(status: int, **headers: str) -> CannedResponse:
    return CannedResponse(status, b'{"error": "it is so", "hint": "do that"}', headers)


@contextmanager
def sidecar(*answers: CannedResponse, timeout_s: float = 20) -> Iterator[tuple[Sidecar, RecordingServer]]:
    """Give these answers in order, and the last one again and again."""
    left = list(answers)

    def answer(_: ReceivedRequest) -> CannedResponse:
        return left.pop(0) if len(left) > 1 else left[0]

    with recording_server(answer) as server:
        yield Sidecar(server.url(), TOKEN, timeout_s), server


def test_busy_sidecar_is_asked_again_with_same_key() -> None:
    busy = (of_error(429, **{"Retry-After": "1"}), of_error(503), CannedResponse(502, b"<html>"), of_run(WAITING, 202))
    with sidecar(*busy, of_run(WAITING), of_run(ENDED)) as (client, server):
        assert client.back_up(("tasks",), "v2", "30d").generations == ("tasks-20261125-1200",)
    *posts, _, last = server.requests
    assert {asked.method for asked in posts} == {"POST"}
    assert len({asked.headers["Idempotency-Key"] for asked in posts}) == 1
    assert posts[0].json == {"sources": ["tasks"], "label": "v2", "pin": "30d"}
    assert (last.path, last.method) == ("/api/runs/run-1", "GET")
    assert {asked.headers["Authorization"] for asked in server.requests} == {f"Bearer {TOKEN}"}


def test_sidecar_that_stays_busy_is_error_with_its_words() -> None:
    with sidecar(of_error(429), timeout_s=0.3) as (client, _), pytest.raises(SidecarBusy, match="it is so") as busy:
        client.request_backup()
    assert (busy.value.hint, busy.value.exit_code) == ("do that", 75)


def test_backup_that_does_not_end_in_time_is_error() -> None:
    with sidecar(of_run(WAITING), timeout_s=0.3) as (client, _), pytest.raises(SidecarBusy) as busy:
        client.back_up()
    assert re.search(r"has not ended within 0\.\d s: it is waiting", busy.value.message)


def test_restarted_sidecar_is_asked_again() -> None:
    answers = (of_run(WAITING, 202), of_error(404), of_run(WAITING, 202), of_run(ENDED))
    with sidecar(*answers) as (client, server):
        assert client.back_up().succeeded
    posts = [asked for asked in server.requests if asked.method == "POST"]
    assert len(posts) == 2
    assert posts[0].headers["Idempotency-Key"] == posts[1].headers["Idempotency-Key"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (CannedResponse(200, b"<html>welcome</html>"), SidecarUnreachable),
        (CannedResponse(200, b"[]"), SidecarUnreachable),
        (CannedResponse(200, b'{"id": "x"}'), SidecarUnreachable),
        (
            CannedResponse(200, b'{"id": "x", "requested_at": "2026-11-25T12:00:00Z", "sources": []}'),
            SidecarUnreachable,
        ),
        (CannedResponse(200, b"[" * 100_000), SidecarUnreachable),
        (CannedResponse(200, b"\xff" * 5_000_000), SidecarUnreachable),
        (CannedResponse(-1), SidecarUnreachable),
        (CannedResponse(401), SidecarRefused),
        (CannedResponse(403, b"<html>"), SidecarRefused),
        (CannedResponse(404), SidecarRefused),
        (CannedResponse(405), SidecarRefused),
        (of_error(422), SidecarRefused),
        (CannedResponse(302, headers={"Location": "ftp://127.0.0.1/"}), SidecarUnreachable),
        (CannedResponse(400, b'{"error": "\\u001b[2J' + TOKEN.encode() + b'", "hint": []}'), SidecarRefused),
    ],
    ids=range(14),
)
def test_other_answer_is_one_line_without_token(answer: CannedResponse, kind: type[BackupdError]) -> None:
    with sidecar(answer, timeout_s=2) as (client, _), pytest.raises(kind) as failed:
        client.request_backup()
    text = f"{failed.value.message} {failed.value.hint}"
    assert failed.value.hint
    assert text.isprintable()
    assert len(text) < 600
    assert TOKEN not in repr(client)


def test_token_does_not_follow_to_another_host() -> None:
    with recording_server(of_run(ENDED)) as other:
        away = CannedResponse(307, headers={"Location": f"http://localhost:{other.port}/api/backups"})
        with sidecar(away, timeout_s=2) as (client, _):
            client.request_backup()
        assert "Authorization" not in other.requests[0].headers


def downloaded(tmp_path: Path, *answers: CannedResponse, limit_bytes: int = 1 << 30, timeout_s: float = 10) -> Path:
    to = tmp_path / "copy.gz"
    with sidecar(*answers, timeout_s=timeout_s) as (client, server):
        client.download("tasks-20261125-1200", DOWNLOAD_TOKEN, to, limit_bytes=limit_bytes)
        assert server.requests[-1].path == "/api/generations/tasks-20261125-1200/archive"
        assert server.requests[-1].headers["Authorization"] == f"Bearer {DOWNLOAD_TOKEN}"
    return to


def archive(body: bytes = ARCHIVE, digest: str = DIGEST, cut_after: int | None = None) -> CannedResponse:
    return CannedResponse(200, body, {"Repr-Digest": digest}, cut_after)


def test_download_is_repeated_after_broken_connection(tmp_path: Path) -> None:
    to = downloaded(tmp_path, of_error(429), archive(cut_after=1000), archive(), timeout_s=120)
    assert to.read_bytes() == ARCHIVE


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (archive(ARCHIVE[:-1]), CopyCorrupt),
        (archive(ARCHIVE[:-1] + b"x"), CopyCorrupt),
        (archive(digest="sha-256=:AAAA:"), CopyCorrupt),
        (CannedResponse(200, ARCHIVE), CopyCorrupt),
        (archive(cut_after=5), SidecarUnreachable),
        (of_error(409), SidecarRefused),
    ],
    ids=range(6),
)
def test_nothing_stays_of_download_that_fails(tmp_path: Path, answer: CannedResponse, kind: type[BackupdError]) -> None:
    with pytest.raises(kind):
        downloaded(tmp_path, answer)
    assert list(tmp_path.iterdir()) == []


def test_download_larger_than_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match=f"more than 1000 B, as much as may be used at {tmp_path}") as refused:
        downloaded(tmp_path, archive(), limit_bytes=1000)
    assert "free space" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("elsewhere")])
def test_download_replaces_no_file_and_follows_no_link(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "copy.gz")
    with pytest.raises(FileExistsError):
        downloaded(tmp_path, archive())
    assert not (tmp_path / "elsewhere").exists()


def test_run_is_read_as_it_was_written_and_unknown_fields_are_skipped() -> None:
    for run in (ENDED, WAITING):
        facts = json.loads(json.dumps(run_facts(run)))
        assert read_run(json.dumps(facts).encode()) == run
        facts["later"] = facts["sources"][0]["later"] = {"x": 1}
        assert read_run(json.dumps(facts).encode()) == run


@pytest.mark.parametrize(
    "change",
    [
        {"source": None},
        {"source": 7},
        {"state": "lost"},
        {"state": None},
        {"generation": {}},
        {"archive_bytes": "1"},
        {"archive_bytes": True},
        {"snapshot_bytes": -1},
        {"snapshot_bytes": 1 << 63},
        {"warnings": "one"},
        {"hold": ["x"]},
        {"warnings": None},
    ],
    ids=str,
)
def test_run_with_values_of_other_types_is_none(change: dict[str, object]) -> None:
    facts = json.loads(json.dumps(run_facts(ENDED)))
    facts["sources"][0] |= change
    with pytest.raises(ValueError, match="not a run of backupd"):
        read_run(json.dumps(facts).encode())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            RemoteSource(source="tasks", state="ended", outcome="failed", error="no disk", hint="buy one"),
            "failed: no disk",
        ),
        (RemoteSource(source="tasks", state="ended", outcome="published"), "failed: it has no verified copy"),
        (RemoteSource(source="tasks", state="running"), "has not ended"),
        (
            RemoteSource(source="tasks", state="ended", outcome="degraded", generation="tasks-1", hold="it shrank"),
            "its pruning is on hold: it shrank",
        ),
    ],
)
def test_success_is_verified_copy_of_each_source_without_hold(source: RemoteSource, words: str) -> None:
    run = RemoteRun(id="x", requested_at=NOON, sources=(SOURCE, source))
    with pytest.raises(RemoteBackupFailed, match=re.escape(words)) as failed:
        run.require_success()
    assert failed.value.hint
    ENDED.require_success()


@pytest.mark.parametrize(
    ("url", "in_clear"),
    [
        ("http://backup.example.com", True),
        ("http://8.8.8.8:8080", True),
        ("http://[2001:4860::1]:8080", True),
        ("https://backup.example.com", False),
        ("http://127.0.0.1:8080", False),
        ("http://[::1]:8080", False),
        ("http://10.0.1.7", False),
        ("http://192.168.1.4:80", False),
        ("http://[fd00::1]", False),
        ("http://srv-captain--my-app-backup:8080", False),
        ("http://localhost", False),
        ("http://nas.local", False),
    ],
)
def test_token_in_clear_is_noticed(url: str, in_clear: bool) -> None:
    require_address(url)
    assert sends_token_in_clear(url) is in_clear
