"""Who may read metrics and status over HTTP, and the message for others."""

import asyncio
import json
from base64 import b64encode
from typing import Any

import pytest

from backupd import __version__
from backupd.web.access import is_loopback, refusal
from backupd.web.routes import make_app
from support.web_site import ILL, FakeService, serving

GUARDED = ("/metrics", "/api/status", "/")
OPEN = ("/livez", "/health")
TOKEN = "s3cret: with a colon and ünicode"
LOCAL_HOST = (b"host", b"127.0.0.1:8080")


def basic(password: str, user: str = "anyone") -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def bearer(token: str) -> str:
    return "Bearer " + token.encode().decode("latin-1")


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "credentials",
    [bearer(TOKEN), bearer(TOKEN).replace("Bearer", "bEARER"), basic(TOKEN), basic(TOKEN, ""), basic(TOKEN, "root")],
)
def test_token_is_accepted_as_bearer_and_as_password_of_any_user(path: str, credentials: str) -> None:
    with serving(token=TOKEN) as site:
        assert site.ask(path, authorization=credentials).status == 200


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "credentials",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic",
        "Basic " + b64encode(TOKEN.encode()).decode(),
        "Basic ???",
        "Basic " + b64encode(b":").decode(),
        bearer(TOKEN + "x"),
        bearer(TOKEN[:-1]),
        bearer(TOKEN.upper()),
        basic(TOKEN + "x"),
        basic("anyone", TOKEN),
        bearer(TOKEN).replace("Bearer", "Digest"),
        TOKEN.encode().decode("latin-1"),
    ],
)
def test_wrong_token_is_refused_on_loopback_too(path: str, credentials: str) -> None:
    with serving(token=TOKEN) as site:
        reply = site.ask(path, authorization=credentials)
    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith('Basic realm="backupd"')
    assert "Bearer" in reply.headers["www-authenticate"]
    assert "tasks" not in reply.text
    assert site.service.calls == [], "who may not see the answer costs no work either"


@pytest.mark.parametrize("path", GUARDED)
def test_missing_credentials_are_refused_where_token_is_set(path: str) -> None:
    with serving(token=TOKEN) as site:
        assert site.ask(path).status == site.ask(path, "HEAD").status == 401


@pytest.mark.parametrize("path", OPEN)
@pytest.mark.parametrize("token", [None, TOKEN])
def test_liveness_and_health_need_no_token(path: str, token: str | None) -> None:
    with serving(token=token) as site:
        assert site.ask(path, x_forwarded_for="203.0.113.9", host="backups.example.org").status == 200


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("token", [None, ""])
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:8080"])
def test_loopback_without_token_may_read(path: str, token: str | None, host: str) -> None:
    with serving(token=token) as site:
        assert site.ask(path, host=host).status == 200
        assert site.ask(path, source="127.0.0.2", host=host).status == 200


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "",
        "[::1",
        "[::2]:80",
        "0.0.0.0",
        "x@",
    ],
)
def test_foreign_host_name_is_refused_against_dns_rebinding(path: str, host: str) -> None:
    with serving() as site:
        reply = site.ask(path, host=host)
    assert reply.status == 403
    assert "names another host" in reply.text


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "header",
    ["X-Forwarded-For", "x-forwarded-for", "Forwarded", "X-Real-IP", "X-Forwarded-Host", "X-Forwarded-Proto", "Via"],
)
def test_request_through_proxy_is_not_loopback(path: str, header: str) -> None:
    with serving() as site:
        reply = site.ask(path, **{header: "127.0.0.1"})
    assert reply.status == 403
    assert "came through a proxy" in reply.text
    assert site.service.calls == []


def test_request_through_proxy_with_token_may_read() -> None:
    with serving(token=TOKEN) as site:
        reply = site.ask(
            "/metrics", authorization=bearer(TOKEN), x_forwarded_for="203.0.113.9", host="backups.example.org"
        )
    assert reply.status == 200


def asked_from(client: tuple[str, int] | None, path: str) -> tuple[int, str]:
    """Ask the app as a server would that `client` has connected to."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [LOCAL_HOST],
        "client": client,
        "server": ("127.0.0.1", 8080),
    }
    asyncio.run(make_app(FakeService(known_health=ILL), None, print)(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent).decode()


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "client", [("192.0.2.7", 4711), ("2001:db8::1", 4711), ("::ffff:192.0.2.7", 4711), ("", 0), None]
)
def test_remote_client_without_token_is_told_how_to_set_one(path: str, client: tuple[str, int] | None) -> None:
    status, text = asked_from(client, path)
    assert status == 403
    assert "BACKUPD_HTTP__TOKEN" in text
    assert "docs/monitoring.md" in text
    assert "tasks" not in text


@pytest.mark.parametrize("client", [("127.0.0.1", 1), ("127.255.0.9", 1), ("::1", 1), ("::ffff:127.0.0.1", 1)])
def test_every_notation_of_loopback_is_loopback(client: tuple[str, int]) -> None:
    assert asked_from(client, "/metrics")[0] == 200


@pytest.mark.parametrize("path", OPEN)
def test_remote_client_may_ask_for_liveness_and_health(path: str) -> None:
    status, text = asked_from(("192.0.2.7", 4711), path)
    assert status == (200 if path == "/livez" else 503)
    assert json.loads(text)["reasons"] == ([] if path == "/livez" else list(ILL.reasons))


@pytest.mark.parametrize(
    "address", [None, "", "localhost", "128.0.0.1", "::", "0.0.0.0", "::ffff:128.0.0.1", "127.0.0.1\n"]
)
def test_other_address_is_not_loopback(address: str | None) -> None:
    assert not is_loopback(address)


def test_two_hosts_or_two_credentials_are_refused() -> None:
    forged = [(b"authorization", b"Bearer x"), (b"authorization", f"Bearer {TOKEN}".encode())]
    twice = refusal("127.0.0.1", forged, TOKEN)
    assert twice is not None
    assert twice.status == 401
    two_hosts = refusal("127.0.0.1", [LOCAL_HOST, (b"host", b"evil.example")], None)
    assert two_hosts is not None
    assert two_hosts.status == 403
    no_host = refusal("127.0.0.1", [], None)
    assert no_host is not None
    assert no_host.status == 403


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("path", "token", "host", "status", "heading"),
    [
        ("/", "t", "localhost", 401, "Se requiere el token"),
        ("/metrics", "t", "localhost", 401, "Se requiere el token"),
        ("/", None, "elsewhere.example", 403, "Disponible solo desde su propio servidor"),
        ("/nothing", None, "localhost", 404, "Página no encontrada"),
    ],
)
def test_browser_is_refused_with_page_and_other_clients_with_plain_text(
    path: str, token: str | None, host: str, status: int, heading: str
) -> None:
    with serving(token=token) as site:
        page = site.ask(path, Host=host, Accept=BROWSER, Accept_Language="es")
        plain = [site.ask(path, Host=host, Accept=accept) for accept in ("*/*", "text/html;q=0, */*", "text/plain")]
    assert (page.status, page.headers["content-language"]) == (status, "es")
    assert heading in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert __version__ not in page.text, "strangers are not told which version it is"
    assert page.headers.get("www-authenticate") == plain[0].headers.get("www-authenticate")
    assert {answer.headers["content-type"] for answer in plain} == {"text/plain; charset=utf-8"}


def test_health_in_browser_is_json_even_after_error() -> None:
    with serving(FakeService(error=ValueError("a defect"))) as site:
        answer = site.ask("/health", Accept=BROWSER)
        page = site.ask("/", Accept="application/json")
    assert (answer.status, answer.headers["content-type"]) == (500, "application/json")
    assert (page.status, page.headers["content-type"]) == (500, "application/json")
