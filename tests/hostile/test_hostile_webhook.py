"""Strangers at the webhook of a gate: nothing happens without a signature, and an old one brings back no old commit."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from backupd.gate.delivery import MAX_BODY_BYTES
from support.daemon import Daemon
from support.forgejo_server import send_webhook, webhook_headers
from support.gate import Deployment, deployment, request
from support.pushes import SECRET
from support.recording_server import CannedResponse

HOOK = "/hooks/tasks"
pytestmark = pytest.mark.cover_processes


@pytest.fixture(scope="module")
def deploying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("deployment")) as made:
        made.environ["HEALTH_URL"] = ""
        yield made


@pytest.fixture(scope="module")
def gate(deploying: Deployment) -> Iterator[Daemon]:
    with deploying.running() as running:
        yield running


@pytest.fixture(scope="module")
def head(deploying: Deployment) -> str:
    """A commit that can be pushed."""
    return deploying.commit("first")


def payload(deploying: Deployment, head: str, **changed: Any) -> dict[str, Any]:
    return deploying.forgejo.push_payload("refs/heads/main", head) | changed


def send(gate: Daemon, said: object, secret: str = SECRET, path: str = HOOK, **more: Any) -> tuple[int, str]:
    status, body = send_webhook(f"http://127.0.0.1:{gate.port}{path}", said, secret, **more)
    return status, body.decode()


@pytest.mark.parametrize(
    "headers",
    [
        dict.fromkeys(("X-Forgejo-Signature", "X-Gitea-Signature", "X-Hub-Signature-256"), None),
        dict.fromkeys(("X-Forgejo-Signature", "X-Gitea-Signature", "X-Hub-Signature-256"), ""),
        {"X-Forgejo-Signature": "0" * 64},
        {"X-Gitea-Signature": "\u00e9" * 64},
        {"X-Hub-Signature-256": "sha256=" + "z" * 64},
    ],
)
def test_unsigned_request_changes_nothing(
    deploying: Deployment, gate: Daemon, head: str, headers: dict[str, str | None]
) -> None:
    before, asked = deploying.deploys(), len(deploying.forgejo.requests)
    status, text = send(gate, payload(deploying, head), headers=headers)
    assert (status, SECRET in text) == (403, False)
    assert (deploying.deploys(), len(deploying.forgejo.requests)) == (before, asked)


@pytest.mark.parametrize("secret", ["", "another secret of the attacker", SECRET[:-1]])
def test_other_secret_is_refused(deploying: Deployment, gate: Daemon, head: str, secret: str) -> None:
    assert send(gate, payload(deploying, head), secret)[0] == 403


def test_changed_body_is_refused(deploying: Deployment, gate: Daemon, head: str) -> None:
    body = json.dumps(payload(deploying, head)).encode()
    headers = webhook_headers(body, SECRET)
    assert request(gate.port, "POST", HOOK, body.replace(b"heads/main", b"heads/mail"), headers)[0] == 403


def test_unknown_gate_gives_no_hint(deploying: Deployment, gate: Daemon, head: str) -> None:
    status, text = send(gate, payload(deploying, head), path="/hooks/other")
    assert (status, text) == (404, "Not Found\n")


@pytest.mark.parametrize("path", ["/hooks/tasks/", "/hooks/", "/hooks/..%2ftasks", "/hooks/tasks%00", "/hooks"])
def test_odd_path_is_not_found(deploying: Deployment, gate: Daemon, head: str, path: str) -> None:
    assert send(gate, payload(deploying, head), path=path)[0] == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_other_method_is_refused(gate: Daemon, method: str) -> None:
    assert request(gate.port, method, HOOK)[0] == 405


def test_form_is_refused_with_what_to_change(deploying: Deployment, gate: Daemon, head: str) -> None:
    status, text = send(gate, payload(deploying, head), as_form=True)
    assert (status, "application/json" in text) == (415, True)


def test_oversized_body_is_refused(gate: Daemon) -> None:
    body = b"[" * (MAX_BODY_BYTES + 1)
    status, _ = request(gate.port, "POST", HOOK, body, webhook_headers(body, SECRET))
    assert status == 413


def test_announced_size_is_refused_before_body_arrives(gate: Daemon) -> None:
    with closing(socket.create_connection(("127.0.0.1", gate.port), timeout=5)) as connection:
        connection.sendall(f"POST {HOOK} HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(200)


@pytest.mark.parametrize("body", [b"[" * 1_000_000, b'{"a":' * 200_000, b"1" * 1_000_000, b"\xff" * 1000, b""])
def test_signed_nonsense_is_refused_quickly(gate: Daemon, body: bytes) -> None:
    began = time.monotonic()
    assert send(gate, body)[0] == 400
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"repository": {"full_name": "eve/app"}}, 403),
        ({"ref": "refs/tags/vmain/../../x"}, 400),
        ({"ref": "refs/heads/\x1b[31mmain"}, 400),
        ({"ref": "refs/heads/<script>"}, 200),
        ({"ref": "refs/pull/1/head"}, 200),
        ({"after": "0" * 40}, 200),
        ({"after": "$(reboot)"}, 400),
    ],
)
def test_signed_push_of_something_else_is_not_deployed(
    deploying: Deployment, gate: Daemon, head: str, changed: dict[str, Any], status: int
) -> None:
    before = deploying.deploys()
    assert send(gate, payload(deploying, head, before="1" * 40, **changed))[0] == status
    assert deploying.deploys() == before


@pytest.mark.parametrize("event", ["ping", "create", "pull_request", "PUSH"])
def test_other_event_with_signature_is_ignored(deploying: Deployment, gate: Daemon, head: str, event: str) -> None:
    before = deploying.deploys()
    status, text = send(gate, payload(deploying, head), event=event)
    assert (status, text.startswith("ignored: "), deploying.deploys() == before) == (200, True, True)


def test_replayed_push_brings_back_no_old_commit(tmp_path: Path) -> None:
    with deployment(tmp_path) as deploying:
        deploying.environ["HEALTH_URL"] = ""
        old = deploying.commit("old")
        recorded = deploying.forgejo.push_payload("refs/heads/main", old)
        with deploying.running() as gate:
            assert send(gate, recorded)[0] == 202
            deploying.wait_for("deployed")
            new = deploying.commit("new")
            assert deploying.push(gate, new, before=old)[0] == 202
            deploying.wait_for("deployed")
            assert send(gate, recorded)[1].startswith("ignored: ")  # another id of the delivery, which is not signed
        with deploying.running() as gate:
            assert send(gate, recorded)[1].startswith("ignored: ")
        assert [build.git_hash for build in deploying.caprover.builds] == [old, new]


def test_guesses_are_slowed_and_slow_bodies_starve_no_push(tmp_path: Path) -> None:
    with deployment(tmp_path) as deploying, ExitStack() as stack:
        deploying.environ["HEALTH_URL"] = ""
        commit = deploying.commit()
        with deploying.running() as gate:
            for _ in range(40):
                head = f"POST {HOOK} HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY_BYTES}\r\n\r\n"
                slow = stack.enter_context(closing(socket.create_connection(("127.0.0.1", gate.port), timeout=5)))
                slow.sendall(head.encode() + b"x" * 1000)
            began = time.monotonic()
            statuses = [send(gate, {"guess": number}, "a wrong secret of 16")[0] for number in range(8)]
            assert statuses == [403] * 8
            assert time.monotonic() - began > 0.5
            assert deploying.push(gate, commit)[0] == 202


def test_nothing_of_a_request_is_repeated_unescaped(deploying: Deployment, gate: Daemon, head: str) -> None:
    evil = "<script>alert(1)</script>"
    said = payload(deploying, head) | {"pusher": {"login": evil}}
    assert send(gate, said)[0] in (200, 202)
    page = request(gate.port, "GET", "/", headers={"Accept": "text/html"})[1]
    assert evil not in page
    assert SECRET not in page + gate.said()


def test_secret_that_a_service_repeats_is_masked(tmp_path: Path) -> None:
    with deployment(tmp_path) as deploying:
        token = deploying.caprover.token or ""
        repeated = json.dumps({"status": 1000, "description": f"{token} {deploying.forgejo.token} {SECRET}"}).encode()
        deploying.caprover.before_answer = lambda _asked: CannedResponse(200, repeated)
        with deploying.running() as gate:
            deploying.push(gate, deploying.commit())
            deploying.wait_for("stopped")
            shown = [request(gate.port, "GET", path)[1] for path in ("/", "/api/deploys", "/metrics")]
        kept = [path.read_text() for path in (tmp_path / "state").rglob("*") if path.is_file()]
    for secret in (token, deploying.forgejo.token, SECRET):
        assert not any(secret in text for text in (*shown, *kept, gate.said()))
    assert any("[secret]" in text for text in kept)


def test_no_secret_is_in_process_of_gate(deploying: Deployment, gate: Daemon) -> None:
    for name in ("environ", "cmdline"):
        text = Path(f"/proc/{gate.process.pid}/{name}").read_bytes()
        for secret in (SECRET, deploying.forgejo.token, deploying.caprover.token or ""):
            assert secret.encode() not in text


def test_repeated_header_is_refused(deploying: Deployment, gate: Daemon, head: str) -> None:
    body = json.dumps(payload(deploying, head)).encode()
    connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=5)
    with closing(connection):
        connection.putrequest("POST", HOOK)
        for name, value in {**webhook_headers(body, SECRET), "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
            if name == "X-Gitea-Signature":
                connection.putheader(name, value)
        connection.endheaders(body)
        assert connection.getresponse().status == 403
