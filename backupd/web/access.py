"""Who may read metrics, the page and /api/status: pure decisions from the address and headers of a request."""

import binascii
import hmac
from base64 import b64decode
from collections.abc import Iterable
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

from backupd.web.responses import WebResponse, text_response

Headers = Iterable[tuple[bytes, bytes]]

_UNAUTHORIZED = text_response(
    HTTPStatus.UNAUTHORIZED,
    "This requires the token of backupd, as a bearer token or as the password of any user.",
    headers={"WWW-Authenticate": 'Basic realm="backupd", charset="UTF-8", Bearer realm="backupd"'},
)
_SET_A_TOKEN = (
    "To read it from another host, set a token (BACKUPD_HTTP__TOKEN, BACKUPD_HTTP__TOKEN_FILE, or token under [http]),",
    "and send it as a bearer token or as the password of any user; see docs/monitoring.md.",
)
_PROXIED = (b"forwarded", b"via", b"x-real-ip")


def refusal(client: str | None, headers: Headers, token: str | None) -> WebResponse | None:
    """Return the response that refuses the request, `None` where it is allowed.

    Where a token is set, the request must contain it. Otherwise it must come from this host, not through a proxy (which
    forwards requests of others), and name this host: else any web page could make a browser read it (DNS rebinding).
    """
    fields = list(headers)
    if token:
        return None if _has_token(token, _only(fields, b"authorization")) else _UNAUTHORIZED
    if not is_loopback(client):
        return _forbidden("your request came from another host")
    if any(name in _PROXIED or name.startswith(b"x-forwarded-") for name, _ in fields):
        return _forbidden("your request came through a proxy")
    if not _names_loopback(_only(fields, b"host")):
        return _forbidden("your request names another host")
    return None


def is_loopback(address: str | None) -> bool:
    """Return whether `address` is of this host: 127.0.0.0/8, also mapped to IPv6, or ::1."""
    try:
        found = ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def _has_token(token: str, credentials: bytes) -> bool:
    scheme, _, rest = credentials.partition(b" ")
    given = rest.strip()
    if scheme.lower() == b"basic":
        try:
            given = b64decode(given, validate=True).partition(b":")[2]  # the password, of any user
        except binascii.Error:
            return False
    elif scheme.lower() != b"bearer":
        return False
    return hmac.compare_digest(given, token.encode("utf-8", "surrogateescape"))


def _names_loopback(host: bytes) -> bool:
    try:
        name = urlsplit("//" + host.decode("ascii")).hostname
    except ValueError:
        return False
    return name == "localhost" or is_loopback(name)


def _only(headers: list[tuple[bytes, bytes]], wanted: bytes) -> bytes:
    """Return the value of a header, empty where it is missing or repeated."""
    values = [value for name, value in headers if name == wanted]
    return values[0] if len(values) == 1 else b""


def _forbidden(why: str) -> WebResponse:
    return text_response(HTTPStatus.FORBIDDEN, f"Only requests on loopback are allowed, and {why}.", *_SET_A_TOKEN)
