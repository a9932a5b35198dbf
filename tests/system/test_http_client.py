"""One HTTP request: it ends in time, reads no more than it should, and never quotes its URL."""

import socket
import threading
import time
from io import BytesIO

import pytest

from backupd.system.http import LONGEST_BODY, HttpRequest, RequestFailed, send_request
from support.daemon import free_port
from support.recording_server import HANG, HANG_UP, CannedResponse, ReceivedRequest, recording_server


def test_posted_body_arrives_and_response_is_returned_with_any_status() -> None:
    with recording_server(CannedResponse(503, b"busy\x1b[2J", {"X-App-Version": "1.2"})) as there:
        reply = send_request(HttpRequest(there.url("/secret"), b"words"), timeout_s=30)
        assert (there.requests[0].method, there.requests[0].body) == ("POST", b"words")
        assert (reply.status, reply.ok, reply.headers["x-app-version"]) == (503, False, "1.2")
        assert reply.words() == "answered 503: busy\\x1b[2J"
        assert send_request(HttpRequest(there.url()), timeout_s=30).status == 503
        assert there.requests[1].method == "GET"


def test_response_is_read_up_to_limit() -> None:
    with recording_server(CannedResponse(200, b"x" * (LONGEST_BODY * 3))) as there:
        assert len(send_request(HttpRequest(there.url()), timeout_s=30).body) == LONGEST_BODY


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_followed_with_posted_body(status: int) -> None:
    def answering(asked: ReceivedRequest) -> CannedResponse:
        return CannedResponse(status, headers={"Location": "/there?x=1"}) if asked.path == "/here" else CannedResponse()

    with recording_server(answering) as there:
        assert send_request(HttpRequest(there.url("/here"), b"words"), timeout_s=30).status == 200
        assert [(one.method, one.target, one.body) for one in there.requests] == [
            ("POST", "/here", b"words"),
            ("POST", "/there?x=1", b"words"),
        ]


@pytest.mark.parametrize("status", [302, 307])
def test_headers_follow_redirect_to_same_host_only(status: int) -> None:
    with recording_server(CannedResponse(200, b"it")) as elsewhere, recording_server() as there:
        there.answering = lambda asked: CannedResponse(
            status, headers={"Location": elsewhere.url("/b") if asked.path == "/a" else "/a"}
        )
        request = HttpRequest(there.url("/"), headers={"Authorization": "token hunter2", "X-App": "hunter2"})
        assert send_request(request, timeout_s=30).body == b"it"
        assert [one.headers["Authorization"] for one in there.requests] == ["token hunter2"] * 2
        assert "hunter2" not in str(elsewhere.requests[0].headers)


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_method_headers_and_body_in_pieces_arrive(method: str) -> None:
    with recording_server() as there:
        headers = {"Content-Length": "6", "Content-Type": "application/x-tar"}
        send_request(HttpRequest(there.url(), iter([b"abc", b"def"]), method, headers), timeout_s=30)
        (asked,) = there.requests
        assert (asked.method, asked.body, asked.headers["Content-Type"]) == (method, b"abcdef", "application/x-tar")


def test_upload_does_not_follow_redirect() -> None:
    with recording_server(CannedResponse(307, headers={"Location": "/there"})) as there:
        with pytest.raises(RequestFailed, match="redirects an upload"):
            send_request(HttpRequest(there.url(), iter([b"abc"]), headers={"Content-Length": "3"}), timeout_s=30)
        assert len(there.requests) == 1


def test_body_of_response_is_written_to_file_up_to_limit() -> None:
    with recording_server(CannedResponse(200, b"x" * 100_000)) as there:
        into = BytesIO()
        assert send_request(HttpRequest(there.url(), into=into, limit_bytes=100_000), timeout_s=30).body == b""
        assert into.getvalue() == b"x" * 100_000
        with pytest.raises(RequestFailed, match=r"more than 97\.7 KiB"):
            send_request(HttpRequest(there.url(), into=BytesIO(), limit_bytes=99_999), timeout_s=30)


def test_body_of_refusal_is_not_written_to_file() -> None:
    with recording_server(CannedResponse(404, b"no such archive")) as there:
        into = BytesIO()
        assert (
            send_request(HttpRequest(there.url(), into=into), timeout_s=30).words() == "answered 404: no such archive"
        )
        assert into.getvalue() == b""


def test_probe_of_app_does_not_follow_redirect() -> None:
    with recording_server(CannedResponse(302, headers={"Location": "/login"})) as there:
        assert send_request(HttpRequest(there.url()), timeout_s=30, direct=True).status == 302
        assert len(there.requests) == 1


def test_redirect_out_of_http_is_not_followed() -> None:
    with recording_server(CannedResponse(302, headers={"Location": "ftp://127.0.0.1/x"})) as there:
        with pytest.raises(RequestFailed, match=r"redirects from https? to \w+, which is refused"):
            send_request(HttpRequest(there.url()), timeout_s=30)
        there.answering = lambda _asked: CannedResponse(302, headers={"Location": "file:///etc/passwd"})
        assert send_request(HttpRequest(there.url()), timeout_s=30).status == 302


def test_circular_redirect_ends() -> None:
    with recording_server(CannedResponse(302, headers={"Location": "/again"})) as there:
        assert send_request(HttpRequest(there.url("/again")), timeout_s=30).status == 302
        assert len(there.requests) <= 5


def test_hanging_server_is_abandoned_in_time() -> None:
    with recording_server(HANG) as there:
        began = time.monotonic()
        with pytest.raises(RequestFailed, match=r"no answer within 0\.3 s|timed out"):
            send_request(HttpRequest(there.url("/hunter2")), timeout_s=0.3)
        assert time.monotonic() - began < 20


def test_dripping_server_is_abandoned_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            client, _ = server.accept()
            with client:
                try:
                    while True:
                        client.sendall(b"H")
                        time.sleep(0.05)
                except OSError:
                    pass

        threading.Thread(target=drip, daemon=True).start()
        with pytest.raises(RequestFailed, match=r"no answer within 0\.5 s|no HTTP"):
            send_request(HttpRequest(f"http://127.0.0.1:{server.getsockname()[1]}/"), timeout_s=0.5)


def test_each_error_has_message_without_url() -> None:
    with recording_server(HANG_UP) as there:
        urls = {
            there.url("/hunter2"): "Remote end closed|reset",
            f"http://127.0.0.1:{free_port()}/hunter2": "Connection refused",
            f"https://127.0.0.1:{there.port}/hunter2": "SSL|wrong version|EOF|reset|closed",
            "http://hunter2.invalid/": "not known|resolution|no address",
            "http://127.0.0.1:hunter2/": "the URL cannot be used",
            "gopher://hunter2/": "unknown url type|cannot be used",
        }
        for url, words in urls.items():
            with pytest.raises(RequestFailed, match=f"(?i){words}") as told:
                send_request(HttpRequest(url), timeout_s=10)
            assert "hunter2" not in str(told.value), url
