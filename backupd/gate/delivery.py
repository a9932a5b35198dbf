"""What a request to a webhook is: a push to deploy, one to ignore, or one to refuse; pure.

The signature comes first: nothing of a body is read before it holds. Forgejo, Gitea and GitHub sign the body with
HMAC-SHA256. The headers are not signed: neither the id of the delivery nor the event says anything by itself.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from backupd.formatting import one_line, printable
from backupd.gate.model import COMMIT, TAGS, CapRoverWebhook, Gate, Push
from backupd.web.strict_json import read_object

MAX_BODY_BYTES: Final = 4 << 20
_SIGNATURES: Final[Mapping[str, str]] = {  # headers, and what stands before the 64 digits
    "x-forgejo-signature": "",
    "x-gitea-signature": "",
    "x-hub-signature-256": "sha256=",
}
_DIGITS: Final = re.compile("[0-9a-f]{64}", re.ASCII)
_DELIVERY: Final = re.compile("[A-Za-z0-9-]{1,64}", re.ASCII)
_SENDERS: Final = ("forgejo", "gitea", "github")
_LONGEST_REF: Final = 250
_LONGEST_NAME: Final = 80
# As git-check-ref-format(1) has it.
_ODD_IN_REF: Final = re.compile(r"[\s\x00-\x1f\x7f~^:?*\[\\]|\.\.|//|@\{|/\.|\.lock(?:/|$)|[/.]$")
_FORWARDED: Final = re.compile(r"content-type|user-agent|x-(?:forgejo|gitea|gogs|github|hub)-[a-z0-9-]{1,40}")
_LONGEST_HEADER: Final = 400

_FORM: Final = (
    "the body must be JSON: in Forgejo, Settings, Webhooks, this webhook: method POST, content type application/json"
)
_UNSIGNED: Final = "the request is not signed: set Secret in the webhook to the secret of this gate"
_NO_ID: Final = "the request has no usable id (X-Forgejo-Delivery): check whether a proxy before the gate removes it"
_OTHER_GATE: Final = "in its webhook, set the URL of its own gate, or remove the webhook"
_WRONG: Final = "the signature is wrong: Secret in the webhook is not the secret of this gate, or the body was changed"


@dataclass(frozen=True, slots=True)
class Ignored:
    """A request that is well, and asks for no deploy."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is not accepted; `unsigned` where its signature is missing or wrong."""

    status: HTTPStatus
    reason: str
    unsigned: bool = False


class _Malformed(ValueError):
    """Why a signed body is not the report of a push."""


def read_delivery(gate: Gate, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Push | Ignored | Refused:
    """Return what a POST to the webhook of `gate` means; the names of `headers` are in lower case."""
    given = [(name.decode("latin-1"), value.decode("latin-1").strip()) for name, value in headers]
    if _media_type(given) != "application/json":
        return Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, _FORM)
    if problem := _signature_problem(given, body, gate.secret):
        return Refused(HTTPStatus.FORBIDDEN, problem, unsigned=True)
    event, delivery = _of_sender(given, "event"), _of_sender(given, "delivery")
    if event != "push":
        return Ignored(f"the event is {one_line(event) or 'unnamed'}, not push")
    if not _DELIVERY.fullmatch(delivery):
        return Refused(HTTPStatus.BAD_REQUEST, _NO_ID)
    try:
        return _push(gate, read_object(body), delivery, given, body)
    except ValueError as problem:
        return Refused(HTTPStatus.BAD_REQUEST, f"the body is not the report of a push: {problem}")


def digest_of(body: bytes) -> str:
    """Return what tells one body from another."""
    return hashlib.sha256(body).hexdigest()


def matches(pattern: str, ref: str) -> bool:
    """Return whether `ref` fits `pattern`, in which * and ? stand for any characters but a slash."""
    special = {"*": "[^/]*", "?": "[^/]"}
    return re.fullmatch("".join(special.get(one, re.escape(one)) for one in pattern), ref, re.DOTALL) is not None


def _signature_problem(headers: list[tuple[str, str]], body: bytes, secret: str) -> str:
    """Return what is wrong; empty where there is a signature, and each that there is holds."""
    right = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    found, holds = False, True
    for name, before in _SIGNATURES.items():
        values = _values(headers, name)
        if not any(value.removeprefix(before) for value in values):  # as Forgejo sends it where there is no secret
            continue
        found = True
        digits = values[0].removeprefix(before) if len(values) == 1 and values[0].startswith(before) else ""
        well = _DIGITS.fullmatch(digits) is not None
        holds &= hmac.compare_digest(digits if well else "0" * len(right), right) and well
    if not found:
        return _UNSIGNED
    return "" if holds else _WRONG


def _push(
    gate: Gate, document: Mapping[str, Any], delivery: str, headers: list[tuple[str, str]], body: bytes
) -> Push | Ignored | Refused:
    repository = _text(_table(document, "repository"), "full_name")
    if repository.casefold() != gate.repository.casefold():
        problem = f"this gate is for {gate.repository}, and the push is to another repository: {_OTHER_GATE}"
        return Refused(HTTPStatus.FORBIDDEN, problem)
    ref, before, after = (_text(document, key) for key in ("ref", "before", "after"))
    if len(ref) > _LONGEST_REF or _ODD_IN_REF.search(ref) or not ref.isprintable():
        raise _Malformed("its ref is not a name that git allows")
    if not (COMMIT.fullmatch(before) and COMMIT.fullmatch(after)):
        raise _Malformed("before and after are not commits")
    if not any(matches(pattern, ref) for pattern in gate.refs):
        return Ignored(f"{ref} is none of the refs of this gate ({', '.join(gate.refs)})")
    if not after.strip("0"):
        return Ignored(f"{ref} was deleted")
    if before == after:
        return Ignored("a test delivery: the signature holds, and nothing was pushed")
    forwarded = isinstance(gate.target, CapRoverWebhook)
    return Push(
        delivery=delivery,
        repository=gate.repository,
        ref=ref,
        commit=_commit(document, ref, after),
        before=before,
        pusher=_pusher(document),
        body=body if forwarded else b"",
        headers=_forwarded(headers) if forwarded else {},
    )


def _commit(document: Mapping[str, Any], ref: str, after: str) -> str:
    """Return the commit that was pushed: `after` of a tag may be an annotated tag, whose commit is the head commit."""
    if not ref.startswith(TAGS):
        return after
    commit = _text(_table(document, "head_commit"), "id")
    if not COMMIT.fullmatch(commit) or len(commit) != len(after):
        raise _Malformed("head_commit.id is not a commit")
    return commit


def _pusher(document: Mapping[str, Any]) -> str:
    pusher = document.get("pusher")
    names = [pusher.get(key) for key in ("login", "username", "name")] if isinstance(pusher, dict) else []
    name = next((one for one in names if isinstance(one, str) and one), "")
    return printable(name)[:_LONGEST_NAME]


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key)
    if not isinstance(found, dict):
        raise _Malformed(f"it has no {key}")
    return found


def _text(document: Mapping[str, Any], key: str) -> str:
    found = document.get(key)
    if not isinstance(found, str):
        raise _Malformed(f"it has no {key}")
    return found


def _values(headers: list[tuple[str, str]], name: str) -> list[str]:
    return [value for one, value in headers if one == name]


def _media_type(headers: list[tuple[str, str]]) -> str:
    values = _values(headers, "content-type")
    return values[0].partition(";")[0].strip().lower() if len(values) == 1 else ""


def _of_sender(headers: list[tuple[str, str]], what: str) -> str:
    """Return the one value of X-Forgejo-…, X-Gitea-… and X-GitHub-…; empty where they differ, or there is none."""
    values = {value for sender in _SENDERS for value in _values(headers, f"x-{sender}-{what}")}
    return values.pop() if len(values) == 1 else ""


def _forwarded(headers: list[tuple[str, str]]) -> dict[str, str]:
    return {name: value for name, value in headers if _FORWARDED.fullmatch(name) and len(value) <= _LONGEST_HEADER}
