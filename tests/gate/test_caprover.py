"""Delivery to CapRover: exactly the tested tree, its own status behind HTTP 200, and its lock."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.errors import Cancelled, GateStepFailed
from backupd.gate import caprover as module
from backupd.gate.caprover import deliver, forward, require_definition
from backupd.gate.model import CapRover, CapRoverWebhook, Push
from backupd.gate.source_tree import write_tree
from support.app_trees import tree_of
from support.caprover_server import CapRoverServer, answer, caprover_server
from support.daemon import free_port
from support.forgejo_server import NO_COMMIT, Repository, webhook_headers
from support.recording_server import HANG_UP, CannedResponse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PUSH = Push("1", "ana/app", "refs/heads/main", COMMIT, NO_COMMIT, "ana")


@pytest.fixture
def caprover() -> Iterator[CapRoverServer]:
    with caprover_server() as running:
        yield running


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "wait_random_exponential", lambda **_limits: lambda _state: 0.01)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tree_of(tmp_path, {"captain-definition": "{}", "run*": "x", "link -> run": None})


def target(caprover: CapRoverServer, *, app: str = "app", token: str | None = None, timeout_s: float = 30) -> CapRover:
    return CapRover(caprover.url, app, token or str(caprover.token), timeout_s)


def never() -> bool:
    return False


def test_exactly_the_tested_tree_is_delivered(caprover: CapRoverServer, tmp_path: Path) -> None:
    repository = Repository.create(tmp_path)
    awkward = {"\r\n--boundary": random.randbytes(1 << 20), "caf\udce9": "latin", "run*": "#!/bin/sh\n", "a/b/c": ""}
    commit = repository.commit({"captain-definition": "{}", **awkward, "link -> run": None})
    tar = tmp_path / "tree.tar"
    packed = tmp_path / "packed"
    packed.write_bytes(repository.archive(commit))
    with packed.open("rb") as stream:
        write_tree(stream, tar, "ana/app")
    said = deliver(target(caprover), tar, Push("1", "ana/app", "refs/heads/main", commit, NO_COMMIT, "ana"), never)
    assert said == f"CapRover has taken commit {commit[:10]} for app: Deploy is started"
    (build,) = caprover.builds
    assert build.git_hash == commit
    assert build.tar == tar.read_bytes()
    assert build.files() == repository.files_of(commit)
    (asked,) = caprover.requests
    assert asked.query == {"detached": "1"}
    assert int(asked.header("Content-Length") or 0) == len(asked.body)


def test_busy_caprover_is_asked_again(caprover: CapRoverServer, tree: Path) -> None:
    caprover.busy_for = 3
    deliver(target(caprover), tree, PUSH, never)
    assert len(caprover.requests) == 4
    assert [build.tar for build in caprover.builds] == [tree.read_bytes()]


def test_caprover_that_stays_busy_is_given_up(caprover: CapRoverServer, tree: Path) -> None:
    caprover.busy_for = 10**9
    with pytest.raises(
        GateStepFailed, match=r"not taken the delivery within 0\.5 s: answered 429: Another operation"
    ) as it:
        deliver(target(caprover, timeout_s=0.5), tree, PUSH, never)
    assert "hangs there" in it.value.hint
    assert caprover.builds == []


def test_caprover_that_restarts_is_asked_again(caprover: CapRoverServer, tree: Path) -> None:
    answers = [CannedResponse(502, b"<html>Bad gateway"), CannedResponse(503)]
    caprover.before_answer = lambda _asked: answers.pop() if answers else None
    deliver(target(caprover), tree, PUSH, never)
    assert len(caprover.builds) == 1


def test_wait_for_caprover_ends_when_cancelled(caprover: CapRoverServer, tree: Path) -> None:
    caprover.busy_for = 10**9
    began = time.monotonic()
    with pytest.raises(Cancelled):
        deliver(target(caprover, timeout_s=600), tree, PUSH, lambda: len(caprover.requests) > 2)
    assert time.monotonic() - began < 30
    assert caprover.builds == []


@pytest.mark.parametrize(
    ("app", "token"), [("app", "wrong-token-0123456789"), ("unknown", None), ("../../login", None)]
)
def test_wrong_token_and_unknown_app_are_told_and_not_retried(
    caprover: CapRoverServer, tree: Path, app: str, token: str | None
) -> None:
    with pytest.raises(GateStepFailed, match=r"The request is not authorized\. \(1102\)") as failed:
        deliver(target(caprover, app=app, token=token), tree, PUSH, never)
    assert "caprover_app and caprover_token" in failed.value.hint
    assert "0123456789" not in f"{failed.value} {failed.value.hint} {target(caprover)!r}"
    assert len(caprover.requests) == 1


def test_token_that_is_not_enabled_is_told(caprover: CapRoverServer, tree: Path) -> None:
    asked = target(caprover)
    caprover.token = None
    with pytest.raises(GateStepFailed, match="1102"):
        deliver(asked, tree, PUSH, never)


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        (answer(1000, "Docker is too old\x1b[2J"), r"Docker is too old\\x1b\[2J \(1000\)", "Deployment"),
        (answer(1108, "Either one"), r"Either one \(1108\)", "Deployment"),
        (CannedResponse(200, b"<!DOCTYPE html>"), "is not CapRover: it answered 200", "caprover_url"),
        (CannedResponse(200, b"[1]"), "is not CapRover", "caprover_url"),
        (CannedResponse(200, b'{"status": "100"}'), "is not CapRover", "caprover_url"),
        (CannedResponse(500, b"Internal Server Error"), "answered 500: Internal Server Error", "caprover_url"),
        (CannedResponse(413, b"<html>"), "answered 413", "client_max_body_size"),
        (CannedResponse(504, b"<html>"), "answered 504; it is unknown whether it builds", "push again"),
        (HANG_UP, "did not confirm it: .*; it is unknown whether it builds", "push again"),
        (CannedResponse(302, b"", {"Location": "https://127.0.0.1:1/x"}), "redirects an upload", "with https"),
    ],
)
def test_refusal_is_told_by_its_own_words_and_not_retried(
    caprover: CapRoverServer, tree: Path, said: CannedResponse, message: str, hint: str
) -> None:
    caprover.before_answer = lambda _asked: said
    with pytest.raises(GateStepFailed, match=message) as failed:
        deliver(target(caprover), tree, PUSH, never)
    assert hint in failed.value.hint
    assert str(failed.value).isprintable()
    assert len(caprover.requests) == 1


def test_caprover_that_is_down_is_told(tree: Path) -> None:
    asked = CapRover(f"http://127.0.0.1:{free_port()}", "app", "token", 0.2)
    with pytest.raises(GateStepFailed, match="Connection refused") as failed:
        deliver(asked, tree, PUSH, never)
    assert "caprover_url" in failed.value.hint


def test_file_is_not_read_into_memory(tmp_path: Path) -> None:
    sparse = tmp_path / "tree.tar"
    with sparse.open("wb") as stream:
        stream.truncate(8 << 20)
    before, after = module._parts("b", COMMIT)
    sending = module._Sending(module.HttpRequest("http://x"), (before, sparse, after), 1)
    pieces = list(sending)
    assert sending.complete
    assert max(map(len, pieces)) <= 1 << 18
    assert sum(map(len, pieces)) == len(before) + (8 << 20) + len(after)


def test_tree_without_anything_to_build_is_refused(tmp_path: Path) -> None:
    for number, files in enumerate(({"captain-definition": ""}, {"Dockerfile": ""}, {"deploy/captain-definition": ""})):
        require_definition(tree_of(tmp_path / str(number), {"a": "", **files}))
    with pytest.raises(GateStepFailed, match="neither captain-definition nor Dockerfile") as failed:
        require_definition(
            tree_of(tmp_path / "none", {"a": "", "captain-definition/file": "", "x -> Dockerfile": None})
        )
    assert "add captain-definition" in failed.value.hint


# --- the webhook ---


def pushed(caprover: CapRoverServer, ref: str = "refs/heads/main", size: int = 0) -> tuple[CapRoverWebhook, Push]:
    body = b'{"ref": "%s", "padding": "%s"}' % (ref.encode(), b"x" * size)
    headers = {name.lower(): value for name, value in webhook_headers(body, "secret").items()}
    push = Push("1", "ana/app", ref, COMMIT, NO_COMMIT, "ana", body, {**headers, "host": "gate.example.com"})
    return CapRoverWebhook(caprover.webhook_url, 30), push


def test_webhook_is_forwarded_unchanged(caprover: CapRoverServer) -> None:
    webhook, push = pushed(caprover)
    said = forward(webhook, push)
    assert "it builds the head of the branch" in said
    assert "not necessarily the tested commit" in said
    (asked,) = caprover.requests
    assert asked.body == push.body
    sent = {name.lower(): value for name, value in asked.headers.items()}
    assert {name: sent[name] for name in push.headers if name != "host"} == {
        name: value for name, value in push.headers.items() if name != "host"
    }
    assert sent["host"] == f"127.0.0.1:{caprover.server.port}"
    assert [build.branch for build in caprover.builds] == ["main"]


@pytest.mark.parametrize("tag", ["v1.0", "vmain"])
def test_tag_is_not_forwarded(caprover: CapRoverServer, tag: str) -> None:
    webhook, push = pushed(caprover, f"refs/tags/{tag}")
    with pytest.raises(GateStepFailed, match="builds branches only") as failed:
        forward(webhook, push)
    assert "caprover_token" in failed.value.hint
    assert caprover.requests == []


def test_busy_webhook_is_sent_again(caprover: CapRoverServer) -> None:
    caprover.busy_for = 2
    forward(*pushed(caprover))
    assert [asked.body for asked in caprover.requests] == [caprover.requests[0].body] * 3
    assert len(caprover.builds) == 1


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (answer(1102, "The request is not authorized."), r"refuses the request: .* \(1102\)"),
        (answer(1000, "Error triggering a build"), r"Error triggering a build \(1000\)"),
        (CannedResponse(200, b"OK"), "is not CapRover"),
        (HANG_UP, "it is unknown whether"),
    ],
)
def test_refusal_of_webhook_is_told_without_its_url(
    caprover: CapRoverServer, said: CannedResponse, message: str
) -> None:
    webhook, push = pushed(caprover)
    caprover.before_answer = lambda _asked: said
    with pytest.raises(GateStepFailed, match=message) as failed:
        forward(webhook, push)
    assert caprover.webhook_token not in f"{failed.value} {failed.value.hint} {webhook!r}"
    assert len(caprover.requests) == 1


def test_payload_that_caprover_cannot_read_is_told(caprover: CapRoverServer) -> None:
    with pytest.raises(GateStepFailed, match="answered 500"):
        forward(*pushed(caprover, size=3 << 20))


def test_upload_that_is_cut_off_is_sent_again(tree: Path) -> None:
    large = tree.with_name("large.tar")
    with large.open("wb") as stream:
        stream.truncate(64 << 20)
    cut: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def cut_off() -> None:
            while len(cut) < 3:
                connection, _ = server.accept()
                with connection:
                    cut.append(connection.recv(1000))

        thread = threading.Thread(target=cut_off)
        thread.start()
        asked = CapRover(f"http://127.0.0.1:{server.getsockname()[1]}", "app", "token", 30)
        with pytest.raises(Cancelled):
            deliver(asked, large, PUSH, lambda: len(cut) == 3)
        thread.join(30)
    assert {one.partition(b"?")[0] for one in cut} == {b"POST /api/v2/user/apps/appData/app"}
