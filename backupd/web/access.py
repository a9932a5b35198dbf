"""Who may read metrics, the page and /api/status: pure decisions from the address and headers of a request."""

import binascii
import hmac
import time
from base64 import b64decode
from collections.abc import Callable, Iterable
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from backupd.web.responses import WebResponse, error_response, text_response

Headers = Iterable[tuple[bytes, bytes]]

_UNAUTHORIZED = text_response(
    HTTPStatus.UNAUTHORIZED,
    "This requires the token of backupd, as a bearer token or as the password of any user.",
    headers={"WWW-Authenticate": 'Basic realm="backupd", charset="UTF-8", Bearer realm="backupd"'},
)
# No "Basic": a browser would send a password that it was given by itself, also for the form of another site.
_NO_BEARER = error_response(
    HTTPStatus.UNAUTHORIZED,
    "this requires its own token",
    "send Authorization: Bearer with http.backup_token to request backups, with http.download_token to download",
    {"WWW-Authenticate": 'Bearer realm="backupd"'},
)
_SET_A_TOKEN = (
    "To read it from another host, set a token (BACKUPD_HTTP__TOKEN, BACKUPD_HTTP__TOKEN_FILE, or token under [http]),",
    "and send it as a bearer token or as the password of any user; see docs/monitoring.md.",
)
# The first few are free: people mistype. Then the delay grows, until it is as long as a person waits without a thought.
_FREE_GUESSES = 5
_DELAY_S = 0.25
_LONGEST_DELAY_S = 2.0
_FORGOTTEN_AFTER_S = 10.0  # one wrong guess
_MOST_GUESSES = 60
_MOST_ADDRESSES = 1024
_PROXIED = (b"forwarded", b"via", b"x-real-ip")


class Guesses:
    """Delays guesses at the token without refusing any: another client at the same address may have the right one.

    After some wrong tokens from an address, every request with a token from there waits before the token is compared,
    up to `_LONGEST_DELAY_S`. Wrong ones are forgotten with time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: dict[str, tuple[float, float]] = {}  # how many by address, and when that was

    def delay_s(self, client: str) -> float:
        """Return how many seconds a token from `client` has to wait."""
        return min(_LONGEST_DELAY_S, _DELAY_S * max(0.0, self._count(address_of(client)) - _FREE_GUESSES))

    def add(self, client: str) -> None:
        """Count a wrong token; the addresses from which none came for the longest time are forgotten."""
        address = address_of(client)
        count = self._count(address) + 1
        self._wrong.pop(address, None)
        self._wrong[address] = min(count, _MOST_GUESSES), self._clock()
        while len(self._wrong) > _MOST_ADDRESSES:
            del self._wrong[next(iter(self._wrong))]

    def _count(self, address: str) -> float:
        count, at = self._wrong.get(address, (0.0, 0.0))
        return max(0.0, count - (self._clock() - at) / _FORGOTTEN_AFTER_S)


def address_of(client: str) -> str:
    """Return what counts as one address: with IPv6 the network of a host, which has many addresses in it."""
    try:
        found = ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(found, IPv4Address):
        return client
    return str(found.ipv4_mapped or IPv6Network((found, 64), strict=False))


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


def bearer_refusal(headers: Headers, token: str) -> WebResponse | None:
    """Return the response that refuses a request without `token` as a bearer token, `None` where it has it."""
    scheme, given = _credentials(_only(list(headers), b"authorization"))
    return None if scheme == b"bearer" and _equal(given, token) else _NO_BEARER


def is_loopback(address: str | None) -> bool:
    """Return whether `address` is of this host: 127.0.0.0/8, also mapped to IPv6, or ::1."""
    try:
        found = ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def _has_token(token: str, credentials: bytes) -> bool:
    scheme, given = _credentials(credentials)
    if scheme == b"basic":
        try:
            given = b64decode(given, validate=True).partition(b":")[2]  # the password, of any user
        except binascii.Error:
            return False
    elif scheme != b"bearer":
        return False
    return _equal(given, token)


def _credentials(header: bytes) -> tuple[bytes, bytes]:
    """Return the scheme in lower case, and what follows it."""
    scheme, _, given = header.partition(b" ")
    return scheme.lower(), given.strip()


def _equal(given: bytes, token: str) -> bool:
    """Compare in a time that does not depend on how much of it is right."""
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
