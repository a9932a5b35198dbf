"""Who may see figures and names: pure decisions from what a request says of itself."""

import binascii
import hmac
from base64 import b64decode
from collections.abc import Iterable
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

from backupd.web.responses import Answer, text

Headers = Iterable[tuple[bytes, bytes]]

_CHALLENGE = 'Basic realm="backupd", charset="UTF-8", Bearer realm="backupd"'
_HOW_TO_SET = (
    "To read it from elsewhere, set a token: BACKUPD_HTTP__TOKEN (or BACKUPD_HTTP__TOKEN_FILE, or token under [http]),",
    "and send it as a bearer token or as the password of any user. docs/monitoring.md shows how.",
)
_PROXIED = (b"forwarded", b"via", b"x-real-ip")


def refusal(client: str | None, headers: Headers, token: str | None) -> Answer | None:
    """Return why the request may not see what it asks for, `None` if it may.

    With a token it must bring it. Without one it must come from this host and through no proxy (whose clients are
    strangers), and must name this host as well: else any web page could have a browser here read it (DNS rebinding).
    """
    fields = list(headers)
    if token:
        return None if _brings(token, _values(fields, b"authorization")) else _unauthorized()
    if not is_loopback(client):
        return _forbidden("you are not there")
    if any(name in _PROXIED or name.startswith(b"x-forwarded-") for name, _ in fields):
        return _forbidden("your request came through a proxy")
    if not _names_loopback(_values(fields, b"host")):
        return _forbidden("your request names another host")
    return None


def is_loopback(address: str | None) -> bool:
    """Tell whether `address` is of this host: 127.0.0.0/8, also as IPv6 writes it, or ::1."""
    try:
        found = ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def _brings(token: str, credentials: list[bytes]) -> bool:
    if len(credentials) != 1:
        return False
    scheme, _, rest = credentials[0].partition(b" ")
    given = {b"bearer": _as_it_is, b"basic": _password}.get(scheme.lower(), _nothing)(rest.strip())
    return hmac.compare_digest(given, token.encode("utf-8", "surrogateescape"))


def _as_it_is(credentials: bytes) -> bytes:
    return credentials


def _password(credentials: bytes) -> bytes:
    try:
        return b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _nothing(_: bytes) -> bytes:
    return b""


def _names_loopback(hosts: list[bytes]) -> bool:
    if len(hosts) != 1:
        return False
    try:
        name = urlsplit("//" + hosts[0].decode("ascii")).hostname
    except ValueError:
        return False
    return name == "localhost" or is_loopback(name)


def _values(headers: list[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name == wanted]


def _unauthorized() -> Answer:
    answer = text(
        HTTPStatus.UNAUTHORIZED, "This needs the token of backupd: as a bearer token, or as any user's password."
    )
    return Answer(answer.status, answer.media_type, answer.body, {"WWW-Authenticate": _CHALLENGE})


def _forbidden(why: str) -> Answer:
    return text(HTTPStatus.FORBIDDEN, f"This answers on loopback only, and {why}.", *_HOW_TO_SET)
