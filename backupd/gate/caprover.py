"""Delivers to CapRover: the tested tree by the token of the app, or the request of the push to CapRover's own webhook.

CapRover (1.10 to 1.15) answers errors with HTTP 200 and a status of its own in JSON (src/api/ApiStatusCodes.ts); only
its lock, under which it takes one change at a time, has a status of HTTP (429, src/routes/user/UserRouter.ts). The
token cannot ask how a build ended: the health of the app tells.
"""

import http.client
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from backupd.errors import DeliveryUnknown, GateStepFailed
from backupd.formatting import human_duration, one_line
from backupd.gate.model import CapRover, CapRoverWebhook, Push
from backupd.gate.source_tree import has_file
from backupd.gate.waiting import IsCancelled, pause, require_wanted
from backupd.system.http import HttpRequest, HttpResponse, RequestFailed, send_request

_OK: Final = frozenset({100, 101, 102})  # done, started, done in part
_NOT_AUTHORIZED: Final = frozenset({1102, 1106})
_LATER: Final = frozenset({http.client.TOO_MANY_REQUESTS, http.client.BAD_GATEWAY, http.client.SERVICE_UNAVAILABLE})
_PIECE: Final = 1 << 18
_ANSWER_S: Final = 60.0
_UPLOAD_S: Final = 1800.0
_LONGEST_WAIT_S: Final = 30.0
_LOG: Final = "look at the app in CapRover (Deployment)"
_DEFINITIONS: Final = ("captain-definition", "Dockerfile")
_NOT_FORWARDED: Final = frozenset({"host", "content-length", "connection", "transfer-encoding", "accept-encoding"})


class _Busy(Exception):
    """CapRover has not taken the request; it may later."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    description: str


def require_definition(tree_tar: Path) -> None:
    """Raise GateStepFailed where CapRover would find nothing to build in the tree.

    It wants captain-definition or Dockerfile in the top directory, or where the app's settings name another place.
    """
    if not has_file(tree_tar, *_DEFINITIONS):
        raise GateStepFailed(
            "the commit has neither captain-definition nor Dockerfile: CapRover could not build it",
            "add captain-definition to the repository, and mind export-ignore in .gitattributes",
        )


def deliver(target: CapRover, tree_tar: Path, push: Push, cancelled: IsCancelled) -> str:
    """Upload exactly this tree, which CapRover then builds; return what it says. A busy CapRover is asked again.

    Raises GateStepFailed, DeliveryUnknown, and Cancelled before an upload only.
    """
    url = f"{target.url.rstrip('/')}/api/v2/user/apps/appData/{quote(target.app, safe='')}?detached=1"
    boundary = f"backupd-{secrets.token_hex(16)}"
    before, after = _parts(boundary, push.commit)
    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(len(before) + tree_tar.stat().st_size + len(after)),
        "x-namespace": "captain",
        "x-captain-app-token": target.token,
    }

    def upload() -> _Sending:
        return _Sending(HttpRequest(url, method="POST", headers=headers), (before, tree_tar, after), _UPLOAD_S)

    answer = _taken(upload, target.timeout_s, cancelled)
    if answer.status not in _OK:
        raise _refusal(answer, one_line(target.app))
    return f"CapRover has taken commit {push.commit[:10]} for {one_line(target.app)}: {answer.description}"


def forward(webhook: CapRoverWebhook, push: Push, cancelled: IsCancelled = lambda: False) -> str:
    """Send the request of the push, unchanged, to CapRover's webhook; return what it says.

    Raises GateStepFailed, DeliveryUnknown, and Cancelled before a request only.
    """
    branch = push.ref.removeprefix("refs/heads/")
    if branch == push.ref:  # it drops 11 letters of any ref: the tag vmain would deploy the branch main
        raise GateStepFailed(
            f"the webhook of CapRover builds branches only, and {one_line(push.ref)} is not one",
            "set caprover_url, caprover_app and caprover_token, which deliver the tested commit",
        )
    headers = {name: value for name, value in push.headers.items() if name.lower() not in _NOT_FORWARDED}
    request = HttpRequest(webhook.url, method="POST", headers={**headers, "Content-Length": str(len(push.body))})
    answer = _taken(lambda: _Sending(request, (push.body,), _ANSWER_S), webhook.timeout_s, cancelled)
    if answer.status not in _OK:
        raise GateStepFailed(
            f"the webhook of CapRover refuses the request: {answer.description} ({answer.status})",
            "copy the URL of the webhook from the app in CapRover again (Deployment, Method 3)",
        )
    return (
        f"CapRover has taken the webhook: {answer.description}; it builds the head of the branch that is set there, if "
        f"that is {one_line(branch)}, as it is then: not necessarily the tested commit"
    )


class _Sending:
    """One attempt to send a request, and whether all of it has been sent."""

    def __init__(self, request: HttpRequest, parts: tuple[bytes | Path, ...], timeout_s: float) -> None:
        self._request, self._parts, self._timeout_s = request, parts, timeout_s
        self.complete = False

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body, and note once the last piece has been sent."""
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            else:
                with part.open("rb") as stream:
                    while piece := stream.read(_PIECE):
                        yield piece
        self.complete = True

    def send(self) -> HttpResponse:
        """Send it. Raises RequestFailed."""
        return send_request(replace(self._request, body=self), timeout_s=self._timeout_s)


def _taken(sending: Callable[[], _Sending], timeout_s: float, cancelled: IsCancelled) -> _Answer:
    """Send until CapRover is not busy. Raises GateStepFailed, and Cancelled before an attempt."""
    attempts = Retrying(
        retry=retry_if_exception_type(_Busy),
        stop=stop_after_delay(timeout_s),
        wait=wait_random_exponential(max=_LONGEST_WAIT_S),
        sleep=partial(pause, cancelled=cancelled),
        reraise=True,
    )
    try:
        return attempts(_answer_to, sending, cancelled)
    except _Busy as error:
        raise GateStepFailed(
            f"CapRover has not taken the delivery within {human_duration(timeout_s)}: {error}",
            "check caprover_url; if CapRover stays busy, look for an operation that hangs there, then push again",
        ) from None


def _answer_to(sending: Callable[[], _Sending], cancelled: IsCancelled) -> _Answer:
    """Send once. Raises _Busy where CapRover has certainly not taken the request, GateStepFailed, Cancelled."""
    require_wanted(cancelled)
    attempt = sending()
    try:
        response = attempt.send()
    except RequestFailed as error:
        if "redirects" in str(error):
            raise GateStepFailed(f"CapRover: {error}", "set the address to which it redirects, with https") from None
        if attempt.complete:
            raise _unknown(str(error)) from None
        raise _Busy(str(error)) from None  # an incomplete upload is never built
    if response.status in _LATER:
        raise _Busy(one_line(response.words()))
    if response.status == http.client.GATEWAY_TIMEOUT:
        raise _unknown(one_line(response.words()))
    answer = _read(response)
    if answer is None:
        raise GateStepFailed(
            f"what answers at the address of CapRover is not CapRover: it {one_line(response.words())}",
            "the proxy before it refuses so large an upload: raise its limit (client_max_body_size)"
            if response.status == http.client.REQUEST_ENTITY_TOO_LARGE
            else "check caprover_url, which begins like https://captain.",
        )
    return answer


def _read(response: HttpResponse) -> _Answer | None:
    """Return what CapRover says in JSON; None where that is not JSON of CapRover."""
    try:
        said = json.loads(response.body)
    except (ValueError, RecursionError):
        return None
    status = said.get("status") if isinstance(said, Mapping) else None
    if not response.ok or not isinstance(status, int):
        return None
    return _Answer(status, one_line(str(said.get("description") or "no description")))


def _unknown(why: str) -> DeliveryUnknown:
    return DeliveryUnknown(
        f"the delivery was sent, and CapRover did not confirm it: {why}; it is unknown whether it builds this commit",
        f"{_LOG}; if it does not build, push again",
    )


def _refusal(answer: _Answer, app: str) -> GateStepFailed:
    text = f"CapRover refuses the delivery to {app}: {answer.description} ({answer.status})"
    if answer.status in _NOT_AUTHORIZED:
        return GateStepFailed(
            text,
            "check caprover_app and caprover_token: CapRover shows the token at the app, Deployment, Method 1; "
            "an unknown app gets the same answer",
        )
    return GateStepFailed(text, _LOG)


def _parts(boundary: str, commit: str) -> tuple[bytes, bytes]:
    """Return what comes before and after the file in the form that CapRover reads (RFC 7578)."""
    disposition = f"--{boundary}\r\nContent-Disposition: form-data; name="
    git_hash = f'{disposition}"gitHash"\r\n\r\n{commit}\r\n'
    file = f'{disposition}"sourceFile"; filename="{commit}.tar"\r\nContent-Type: application/x-tar\r\n\r\n'
    return f"{git_hash}{file}".encode(), f"\r\n--{boundary}--\r\n".encode()
