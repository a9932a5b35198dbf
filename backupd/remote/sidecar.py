"""The client of a sidecar's door: it requests a backup, waits for its end, and downloads archives (docs/api.md)."""

import json
import secrets
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import file_digest
from http import HTTPStatus
from io import BufferedRandom
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Final, TypeVar
from urllib.parse import quote, urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay

from backupd.errors import (
    BackupdError,
    CopyCorrupt,
    NoSpace,
    RemoteRunUnknown,
    SidecarBusy,
    SidecarRefused,
    SidecarUnreachable,
    UsageError,
)
from backupd.formatting import human_bytes, human_duration, one_line
from backupd.remote.run import BACKUPS, RUNS, RemoteRun, read_run
from backupd.system.fs import known_path
from backupd.system.http import LONGEST_BODY, HttpRequest, HttpResponse, RequestFailed, send_request

RESTART_S: Final = 60.0  # for which a sidecar may not answer
_LATER: Final = frozenset(status for status in HTTPStatus if status >= HTTPStatus.INTERNAL_SERVER_ERROR)
_CHECK_URL: Final = "check the URL, and that the sidecar runs and can be reached from here"
_ANSWER_BYTES: Final = 4 << 20
_ANSWER_S: Final = 15.0
_WAIT_S: Final = 45.0  # for one answer: proxies commonly close a connection that is silent for 60 s
_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
T = TypeVar("T")
Pin = bool | str | None  # whether, or for how long ("30d"); None: as the sidecar does by default


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A backupd that is asked over HTTP; `token` is its http.backup_token. No error contains a token."""

    url: str  # http://HOST:PORT, https://NAME or with a path before /api
    token: str = field(repr=False)
    timeout_s: float = 3600.0  # in which a busy one is asked again, and a backup has to end

    def back_up(
        self, sources: tuple[str, ...] = (), label: str = "", pin: Pin = None, key: str | None = None
    ) -> RemoteRun:
        """Request a backup of `sources` (none: all), wait for its end, and return it; see `require_success`.

        A sidecar that restarts meanwhile is asked again with the same `key`. Raises as `request_backup` and `wait_for`.
        """
        give_up, key = time.monotonic() + self.timeout_s, key or secrets.token_hex(16)
        while True:
            left = replace(self, timeout_s=max(0.0, give_up - time.monotonic()))
            run = left.request_backup(sources, label, pin, key)
            try:
                return self.wait_for(run.id, give_up - time.monotonic())
            except RemoteRunUnknown:
                if time.monotonic() >= give_up:
                    raise
                time.sleep(_PAUSE_S)

    def request_backup(
        self, sources: tuple[str, ...] = (), label: str = "", pin: Pin = None, key: str | None = None
    ) -> RemoteRun:
        """Request a backup, and return at once how it stands; with the same `key` it is the same one.

        Raises SidecarUnreachable, SidecarBusy, SidecarRefused.
        """
        asked = {"sources": sources, "label": label, "pin": pin}
        body = json.dumps({name: value for name, value in asked.items() if value not in ((), "", None)}).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": key or secrets.token_hex(16)}
        return self._run(BACKUPS, self.timeout_s, body=body, headers=headers)

    def wait_for(self, run_id: str, timeout_s: float | None = None) -> RemoteRun:
        """Wait for the end of a run, and return it.

        Raises SidecarBusy where it has not ended after `timeout_s` (by default that of the sidecar), RemoteRunUnknown,
        SidecarUnreachable, SidecarRefused.
        """
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        give_up = time.monotonic() + limit_s
        while True:
            began = time.monotonic()
            wait_s = min(_WAIT_S, max(0.0, give_up - began))
            run = self._run(f"{RUNS}/{quote(run_id, safe='')}?wait={wait_s:.0f}", give_up - began, wait_s=wait_s)
            now = time.monotonic()
            if run.state == "ended":
                return run
            if now >= give_up:
                raise SidecarBusy(
                    f"the backup at {self._where} has not ended within {human_duration(limit_s)}: it is {run.state}",
                    "ask again with the same key, or give it more time",
                )
            time.sleep(max(0.0, min(began + _PAUSE_S, give_up) - now))  # it may answer at once, when many are waiting

    def download(self, generation: str, download_token: str, to: Path, *, limit_bytes: int = 1 << 40) -> None:
        """Write the archive of a generation, gzip, to the new file `to`, and verify its size and SHA-256.

        Nothing stays there where that fails. Raises NoSpace where it has more than `limit_bytes`, SidecarUnreachable,
        SidecarBusy, SidecarRefused, CopyCorrupt, OSError.
        """
        path = f"/api/generations/{quote(generation, safe='')}/archive"
        with open(to, "x+b") as stream:  # never another file, nor through a link
            try:
                self._receive(path, download_token, stream, limit_bytes)
            except BaseException:
                to.unlink(missing_ok=True)
                raise

    def _receive(self, path: str, token: str, stream: BufferedRandom, limit_bytes: int) -> None:
        def receive() -> HttpResponse:
            stream.seek(0)
            stream.truncate()
            try:
                answer = self._send(path, token, self.timeout_s, into=stream, limit_bytes=limit_bytes)
            except SidecarUnreachable:
                if stream.tell() + LONGEST_BODY > limit_bytes:
                    raise _too_large(Path(stream.name).parent, limit_bytes) from None
                raise
            if answer.headers.get("content-length") != str(stream.tell()):
                raise SidecarUnreachable(f"the connection to {self._where} broke during the download", _CHECK_URL)
            return answer

        answer = self._patiently(receive, self.timeout_s)
        stream.seek(0)
        digest = file_digest(stream, "sha256").digest()
        if answer.headers.get("repr-digest") != f"sha-256=:{b64encode(digest).decode()}:":
            raise CopyCorrupt(
                f"what came from {self._where} has another SHA-256 than the archive there",
                "try again; if it stays so, run backupd verify there",
            )

    def _run(
        self,
        path: str,
        timeout_s: float,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
    ) -> RemoteRun:
        """Ask for a run, again while the sidecar is busy or, for a while, does not answer."""

        def ask() -> RemoteRun:
            answer = self._send(path, self.token, _ANSWER_S + wait_s, body=body, headers=headers)
            try:
                return read_run(answer.body)
            except ValueError:
                raise SidecarUnreachable(f"{self._where} answers, but not as backupd does", _CHECK_URL) from None

        return self._patiently(ask, timeout_s)

    def _patiently(self, ask: Callable[[], T], timeout_s: float) -> T:
        return Retrying(
            retry=retry_if_exception_type((SidecarBusy, SidecarUnreachable)),
            wait=_pause,
            stop=lambda state: stop_before_delay(timeout_s)(state) or _gone_for_long(state),
            reraise=True,
        )(ask)

    def _send(
        self,
        path: str,
        token: str,
        timeout_s: float,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        into: IO[bytes] | None = None,
        limit_bytes: int = _ANSWER_BYTES,
    ) -> HttpResponse:
        """Send one request, and return a 2xx. Raises SidecarUnreachable, or what another status means."""
        authorized = {"Authorization": f"Bearer {token}", "Accept": "application/json", **(headers or {})}
        request = HttpRequest(
            f"{self.url.rstrip('/')}{path}", body, headers=authorized, into=into, limit_bytes=limit_bytes
        )
        try:
            answer = send_request(request, timeout_s=timeout_s)
        except RequestFailed as error:
            raise SidecarUnreachable(f"{self._where} does not answer: {error}", _CHECK_URL) from None
        if answer.ok:
            return answer
        raise _refusal(answer, path, self._where)

    @property
    def _where(self) -> str:
        """What messages call it: the host, without anything else of the URL."""
        try:
            return one_line(urlsplit(self.url).netloc.rpartition("@")[2]) or "the sidecar"
        except ValueError:
            return "the sidecar"


def require_address(url: str) -> None:
    """Raise UsageError unless `url` is the address of a server, without anything secret in it."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or not url.isascii() or set(url) & set("@?# \t\r\n"):
        raise UsageError(
            "that is not the address of a daemon", "write it as http://HOST:PORT or https://HOST, without a password"
        )


def sends_token_in_clear(url: str) -> bool:
    """Return whether a request to `url` is plain HTTP to a host that does not look like one of a private network.

    A name without a dot is that of a container or of a host nearby.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_near = host.endswith((".local", ".internal", ".localhost")) or not set(host) & {".", ":"}
    return parts.scheme == "http" and not (is_near or _is_private(host))


def _is_private(host: str) -> bool:
    try:
        return ip_address(host.partition("%")[0]).is_private
    except ValueError:
        return False


def _refusal(answer: HttpResponse, path: str, where: str) -> BackupdError:
    """Return the error that a status means, with the sidecar's own words."""
    error, hint = _words(answer)
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return SidecarRefused(
            f"{where} refuses the token", "give it the http.backup_token of the sidecar; download_token for archives"
        )
    if answer.status == HTTPStatus.NOT_FOUND and not hint:
        return SidecarRefused(
            f"{where} accepts no such request", "set http.actions = true there, with its token; and check the URL"
        )
    if answer.status == HTTPStatus.NOT_FOUND and path.startswith(RUNS):
        return RemoteRunUnknown(f"{where}: {error}", hint)
    if answer.status in (HTTPStatus.TOO_MANY_REQUESTS, *_LATER):
        busy = SidecarBusy(f"{where} cannot take the request now: {error}", hint or "try again later")
        after = answer.headers.get("retry-after", "")
        busy.retry_after_s = float(after) if after.isdecimal() else None
        return busy
    return SidecarRefused(f"{where} refuses the request: {error}", hint or _CHECK_URL)


def _too_large(where: Path, limit_bytes: int) -> NoSpace:
    return NoSpace(
        f"the archive has more than {human_bytes(limit_bytes)}, as much as may be used at {known_path(where)}",
        "free space there, or use a larger disk",
    )


def _words(answer: HttpResponse) -> tuple[str, str]:
    """Return the error and the hint in an answer; the status where it has none."""
    try:
        facts = json.loads(answer.body)
        return one_line(str(facts["error"])), one_line(str(facts.get("hint", "")))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return f"status {answer.status}", ""


def _pause(state: RetryCallState) -> float:
    """Return how long to wait before the next attempt: as the sidecar wants, else longer each time."""
    error = state.outcome.exception() if state.outcome else None
    wanted = error.retry_after_s if isinstance(error, SidecarBusy) else None
    return min(_LONGEST_PAUSE_S, wanted or _PAUSE_S * 2 ** min(state.attempt_number - 1, 5))


def _gone_for_long(state: RetryCallState) -> bool:
    """Return whether it has not answered for longer than a restart takes."""
    error = state.outcome.exception() if state.outcome else None
    return isinstance(error, SidecarUnreachable) and (state.seconds_since_start or 0.0) > RESTART_S
