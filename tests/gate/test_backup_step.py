"""The backup before a deploy: from a real sidecar, and the words for whatever keeps it from being taken."""

import gzip
import hashlib
import json
import sqlite3
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.errors import Cancelled, GateStepFailed
from backupd.gate.backup_step import fetch_copy, label_of, take_backup
from backupd.gate.model import Push, SidecarAccess
from support.command import Backupd
from support.daemon import free_port, running_daemon
from support.door import BACKUP_TOKEN, DOWNLOAD_TOKEN, door_site
from support.recording_server import CannedResponse, ReceivedRequest, recording_server

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PUSH = Push("1", "ana/app", "refs/tags/v1.2", COMMIT, "0" * 40, "ana")
SETTINGS = {
    "BACKUPD_HTTP__ACTIONS": "true",
    "BACKUPD_HTTP__BACKUP_TOKEN": BACKUP_TOKEN,
    "BACKUPD_HTTP__DOWNLOAD_TOKEN": DOWNLOAD_TOKEN,
}


@contextmanager
def sidecar(backupd: Backupd, **environ: str) -> Iterator[SidecarAccess]:
    """Run a sidecar that accepts requests, and yield how the gate knows it."""
    with running_daemon(backupd, **SETTINGS, **environ) as daemon:
        daemon.wait_for("is due: ")
        yield SidecarAccess(f"http://127.0.0.1:{daemon.port}", BACKUP_TOKEN, (), DOWNLOAD_TOKEN, 60)


def test_verified_backup_is_taken_labelled_pinned_and_can_be_rehearsed_with(
    backupd: Backupd, database: Path, tmp_path: Path
) -> None:
    with sidecar(backupd) as access:
        taken = take_backup(access, PUSH, "deploy-1")
        assert take_backup(access, PUSH, "deploy-1") == taken, "the same deploy has one backup"
        (generation,) = taken.generations
        assert taken.detail.startswith(f"tasks: {generation}, published, ")
        listed = backupd("list", "--json").out
        assert f"deploy v1.2 {COMMIT}" in listed
        assert '"pinned_until": null' not in listed
        copy = tmp_path / "copy.db"
        fetch_copy(access, generation, copy)
        tables = "SELECT * FROM account ORDER BY id"
        assert sqlite3.connect(copy).execute(tables).fetchall() == sqlite3.connect(database).execute(tables).fetchall()
        unchanged = take_backup(access, PUSH, "deploy-2")
        assert unchanged.generations == taken.generations
        assert "unchanged" in unchanged.detail
        with pytest.raises(GateStepFailed, match="no such generation"):
            fetch_copy(access, "tasks-20200101-0000", tmp_path / "other.db")
        with pytest.raises(GateStepFailed, match="refuses the token"):
            fetch_copy(replace(access, download_token="wrong-token"), generation, tmp_path / "other.db")
        with pytest.raises(GateStepFailed, match="unknown source"):
            take_backup(replace(access, sources=("unknown",)), PUSH, "deploy-3")
    assert list(tmp_path.glob("other*")) == []
    assert list(tmp_path.glob("*.gz")) == []


def test_failed_backup_stops_with_error_and_hint_of_sidecar(backupd: Backupd, database: Path) -> None:
    with sidecar(backupd) as access:
        database.rename(database.with_suffix(".aside"))
        with pytest.raises(GateStepFailed, match="the backup of tasks failed: ") as failed:
            take_backup(access, PUSH, "deploy-1")
        assert failed.value.hint


def test_hold_stops_though_copy_is_verified(backupd: Backupd, database: Path) -> None:
    with sidecar(backupd) as access:
        take_backup(access, PUSH, "deploy-1")
        with sqlite3.connect(database) as app:
            app.execute("DELETE FROM account WHERE id > 10")
        with pytest.raises(GateStepFailed, match="its pruning is on hold: tasks shrank") as failed:
            take_backup(access, PUSH, "deploy-2")
        assert "find out why" in failed.value.hint


def run_answer(**source: object) -> bytes:
    facts = {"source": "tasks", "state": "ended", "outcome": "published", "generation": "tasks-1", **source}
    return json.dumps({"id": "run-1", "requested_at": "2026-11-30T12:00:00+00:00", "sources": [facts]}).encode()


def test_degraded_backup_passes_and_its_warnings_are_told() -> None:
    said = run_answer(outcome="degraded", warnings=["replica nas: unreachable\x1b[2J"], archive_bytes=2048)
    with recording_server(CannedResponse(200, said)) as server:
        taken = take_backup(SidecarAccess(server.url(), BACKUP_TOKEN), PUSH, "deploy-1")
        assert taken.detail == r"tasks: tasks-1, degraded, 2.0 KiB (replica nas: unreachable\x1b[2J)"
        asked = server.requests[0]
        assert (asked.method, asked.path, asked.header("Idempotency-Key")) == ("POST", "/api/backups", "deploy-1")
        assert asked.json == {"label": f"deploy v1.2 {COMMIT}", "pin": "30d"}


@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        (CannedResponse(401, b"{}"), "refuses the token", "backup_token"),
        (CannedResponse(404, b"Not Found\n"), "accepts no such request", "http.actions = true"),
        (CannedResponse(200, b"<html>"), "not as backupd does", "check the URL"),
        (CannedResponse(503, b'{"error": "too many runs wait"}'), "too many runs wait", ""),
        (
            CannedResponse(200, run_answer(generation=None)),
            "backup of tasks failed: it has no verified copy",
            "backup.log",
        ),
        (
            CannedResponse(200, b'{"id": "1", "requested_at": "2026-11-30T12:00:00+00:00", "sources": []}'),
            "not as backupd does",
            "check the URL",
        ),
    ],
)
def test_answer_without_backup_stops(answer: CannedResponse, message: str, hint: str) -> None:
    with recording_server(answer) as server:
        access = SidecarAccess(server.url(), BACKUP_TOKEN, timeout_s=0.5)
        with pytest.raises(GateStepFailed, match=message) as failed:
            take_backup(access, PUSH, "deploy-1")
    assert hint in failed.value.hint
    assert BACKUP_TOKEN not in f"{failed.value} {failed.value.hint} {access!r}"


def test_sidecar_that_is_down_stops() -> None:
    with pytest.raises(GateStepFailed, match="does not answer") as failed:
        take_backup(SidecarAccess(f"http://127.0.0.1:{free_port()}", BACKUP_TOKEN, timeout_s=0.5), PUSH, "deploy-1")
    assert "reached from here" in failed.value.hint


def test_wait_for_backup_ends_when_cancelled() -> None:
    with door_site() as (site, backups):
        began = time.monotonic()
        access = SidecarAccess(f"http://127.0.0.1:{site.server.port}", BACKUP_TOKEN)
        with pytest.raises(Cancelled):
            take_backup(access, PUSH, "deploy-1", lambda: bool(backups.wanted))
        assert time.monotonic() - began < 30
        backups.end("run-1")


def test_rehearsal_without_token_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(GateStepFailed) as failed:
        fetch_copy(SidecarAccess("http://127.0.0.1:1", BACKUP_TOKEN), "tasks-1", tmp_path / "copy.db")
    assert failed.value.hint == "set download_token, or rehearse = false"


def archive_answer() -> CannedResponse:
    body = gzip.compress(b"a database")
    digest = b64encode(hashlib.sha256(body).digest()).decode()
    return CannedResponse(200, body, {"Repr-Digest": f"sha-256=:{digest}:"})


def test_abandoned_download_disturbs_no_later_one(tmp_path: Path) -> None:
    may_go_on, ends, others = threading.Event(), threading.Event(), set(threading.enumerate())

    def answer(_: ReceivedRequest) -> CannedResponse:
        if len(server.requests) == 1:
            may_go_on.wait(60)
        else:
            may_go_on.set()
            ends.wait(60)
        return archive_answer()

    with recording_server(answer) as server:
        access = SidecarAccess(server.url(), BACKUP_TOKEN, (), DOWNLOAD_TOKEN)
        with pytest.raises(Cancelled):
            fetch_copy(access, "tasks-1", tmp_path / "copy.db", lambda: bool(server.requests))
        (abandoned,) = [one for one in threading.enumerate() if one.name == "step" and one not in others]

        def is_not_wanted() -> bool:
            if len(server.requests) == 2 and not abandoned.is_alive():
                ends.set()
            return False

        fetch_copy(access, "tasks-1", tmp_path / "copy.db", is_not_wanted)
    assert (tmp_path / "copy.db").read_bytes() == b"a database"


def test_download_leaves_reserve_of_disk_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backupd.gate.backup_step.reserve_bytes", lambda *_: 1 << 62)
    with recording_server(archive_answer()) as server:
        with pytest.raises(GateStepFailed, match="more than 0 B, as much as may be used") as refused:
            fetch_copy(SidecarAccess(server.url(), BACKUP_TOKEN, (), DOWNLOAD_TOKEN), "tasks-1", tmp_path / "copy.db")
        assert len(server.requests) == 1
    assert "free space" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ref", "label"),
    [
        ("refs/tags/v1.2", f"deploy v1.2 {COMMIT}"),
        ("refs/heads/main", f"deploy {COMMIT}"),
        ("refs/tags/" + "x" * 250, f"deploy {'x' * 80} {COMMIT}"),
    ],
)
def test_label_has_version_and_commit(ref: str, label: str) -> None:
    assert label_of(replace(PUSH, ref=ref)) == label
