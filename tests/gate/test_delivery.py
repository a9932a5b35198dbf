"""What a request to a webhook means: the signature first, then event, repository, ref and commit."""

import json
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.gate.delivery import Ignored, Refused, matches, read_delivery
from backupd.gate.model import CapRover, CapRoverWebhook, Gate, Push
from support.pushes import SECRET, ZEROS, SignedRequest, commit, payload, signature, signed

GATE = Gate(
    name="tasks",
    secret=SECRET,
    repository="me/tasks",
    refs=("refs/heads/main", "refs/tags/v*"),
    sidecar=None,
    forgejo=None,
    status=None,
    tests=None,
    target=CapRover("http://captain", "tasks", "token"),
    app=None,
)


def read(request: SignedRequest, gate: Gate = GATE) -> Push | Ignored | Refused:
    return read_delivery(gate, request.raw, request.body)


def with_headers(request: SignedRequest, *without: str, **changed: str) -> SignedRequest:
    """Return the request without some headers, and with others; a name is written with underscores."""
    new = {name.replace("_", "-").lower(): value for name, value in changed.items()}
    dropped = {*map(str.lower, without), *new}
    kept = {name: value for name, value in request.headers.items() if name.lower() not in dropped}
    return replace(request, headers=kept | new)


ONLY_ONE = (
    ("X-Forgejo-Signature", ""),
    ("X-Gitea-Signature", ""),
    ("X-Hub-Signature-256", "sha256="),
)


def test_push_to_branch_is_read() -> None:
    push = read(signed(payload(after=commit(2), before=commit(1)), delivery="d-1"))
    assert push == Push("d-1", "me/tasks", "refs/heads/main", commit(2), commit(1), "ana")


def test_commit_of_annotated_tag_is_its_head_commit() -> None:
    push = read(signed(payload("refs/tags/v1.2.0", after=commit(9), head=commit(2))))
    assert isinstance(push, Push)
    assert (push.commit, push.version) == (commit(2), "v1.2.0")


def test_sha256_repository_is_read() -> None:
    push = read(signed(payload(after="a" * 64, before="0" * 64)))
    assert isinstance(push, Push)
    assert push.commit == "a" * 64


def test_repository_is_compared_without_case() -> None:
    assert isinstance(read(signed(payload()), replace(GATE, repository="Me/Tasks")), Push)


def test_body_and_headers_are_kept_for_webhook_alone() -> None:
    request = with_headers(signed(payload()), Authorization="Bearer x", Cookie="a=b")
    push = read(request, replace(GATE, target=CapRoverWebhook("http://captain/hook")))
    assert isinstance(push, Push)
    assert push.body == request.body
    assert "x-gitea-event" in push.headers
    assert not {"authorization", "cookie"} & set(push.headers)
    plain = read(request)
    assert isinstance(plain, Push)
    assert (plain.body, dict(plain.headers)) == (b"", {})


# --- The signature ---


@pytest.mark.parametrize(("header", "prefix"), ONLY_ONE)
def test_any_one_signature_is_enough(header: str, prefix: str) -> None:
    request = signed(payload())
    others = [name for name, _ in ONLY_ONE]
    one = with_headers(request, *others, **{header: prefix + signature(request.body)})
    assert isinstance(read(one), Push)


@pytest.mark.parametrize(("header", "prefix"), ONLY_ONE)
@pytest.mark.parametrize("digits", ["0" * 64, signature(b"another body"), "a" * 63, "g" * 64, "'" * 64, "x" * 10_000])
def test_every_signature_that_is_there_must_hold(header: str, prefix: str, digits: str) -> None:
    found = read(with_headers(signed(payload()), **{header: prefix + digits}))
    assert isinstance(found, Refused)
    assert (found.status, found.unsigned) == (HTTPStatus.FORBIDDEN, True)


def test_signature_with_another_secret_is_refused() -> None:
    found = read(signed(payload(), secret="another secret of 16"))
    assert isinstance(found, Refused)
    assert found.unsigned
    assert SECRET not in found.reason


@pytest.mark.parametrize("value", ["", "none"])
def test_unsigned_request_is_refused(value: str) -> None:
    request = with_headers(signed(payload()), *(name for name, _ in ONLY_ONE))
    if not value:  # as Forgejo sends it where the webhook has no secret
        request = with_headers(request, **dict(ONLY_ONE))
    found = read(request)
    assert isinstance(found, Refused)
    assert found.unsigned
    assert "not signed" in found.reason


def test_repeated_signature_is_refused() -> None:
    request = signed(payload())
    raw = [*request.raw, (b"x-gitea-signature", signature(request.body).encode())]
    assert isinstance(read_delivery(GATE, raw, request.body), Refused)


def test_sha1_signature_does_not_count() -> None:
    request = with_headers(signed(payload()), *(name for name, _ in ONLY_ONE), X_Hub_Signature="sha1=" + "a" * 40)
    assert isinstance(read(request), Refused)


def test_nothing_is_parsed_before_signature_holds() -> None:
    found = read(signed(b"[" * 100_000, secret="another secret of 16"))
    assert isinstance(found, Refused)
    assert found.unsigned


@given(st.binary(max_size=200), st.dictionaries(st.sampled_from([name for name, _ in ONLY_ONE]), st.text(max_size=80)))
def test_no_guess_is_accepted(body: bytes, guesses: dict[str, str]) -> None:
    raw = [(b"content-type", b"application/json"), (b"x-gitea-event", b"push")]
    raw += [(name.lower().encode(), value.encode("utf-8", "replace")) for name, value in guesses.items()]
    found = read_delivery(GATE, raw, body)
    assert isinstance(found, Refused)
    assert found.unsigned


# --- What is signed, and no push to deploy ---


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/json", "", "application/jsonp"])
def test_other_content_type_is_refused_with_what_to_change(kind: str) -> None:
    found = read(with_headers(signed(payload()), Content_Type=kind))
    assert isinstance(found, Refused)
    assert found.status is HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    assert "application/json" in found.reason


def test_parameters_of_content_type_are_accepted() -> None:
    assert isinstance(read(with_headers(signed(payload()), Content_Type="Application/JSON; charset=utf-8")), Push)


@pytest.mark.parametrize("event", ["ping", "create", "pull_request", "PUSH", ""])
def test_other_event_is_ignored(event: str) -> None:
    assert isinstance(read(signed(payload(), event=event)), Ignored)


def test_contradicting_events_are_ignored() -> None:
    assert isinstance(read(with_headers(signed(payload()), X_GitHub_Event="create")), Ignored)


@pytest.mark.parametrize(
    ("ref", "reason"),
    [("refs/heads/dev", "none of the refs"), ("refs/tags/1.0", "none of the refs"), ("refs/heads/main/x", "none of")],
)
def test_other_ref_is_ignored(ref: str, reason: str) -> None:
    found = read(signed(payload(ref)))
    assert isinstance(found, Ignored)
    assert reason in found.reason


def test_deleted_ref_is_ignored() -> None:
    found = read(signed(payload(before=commit(1), after=ZEROS, head_commit=None)))
    assert isinstance(found, Ignored)
    assert "deleted" in found.reason


def test_test_delivery_is_ignored() -> None:
    found = read(signed(payload(before=commit(1), after=commit(1))))
    assert isinstance(found, Ignored)
    assert "test delivery" in found.reason


def test_push_to_other_repository_is_refused() -> None:
    found = read(signed(payload(repository={"full_name": "me/other"})))
    assert isinstance(found, Refused)
    assert (found.status, found.unsigned) == (HTTPStatus.FORBIDDEN, False)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"ref": 1' + b"0" * 10_000 + b"}",
        b'{"ref": NaN}',
        json.dumps(payload()).replace('"ref"', '"ref": "refs/heads/main", "ref"').encode(),
        json.dumps(payload()).encode("utf-16"),
    ],
)
def test_malformed_body_is_refused(body: bytes) -> None:
    found = read(signed(body))
    assert isinstance(found, Refused)
    assert found.status is HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(
    "changed",
    [
        {"ref": None},
        {"ref": 7},
        {"ref": ["refs/heads/main"]},
        {"ref": "refs/heads/\x1b[31m"},
        {"ref": "refs/heads/../main"},
        {"ref": "refs/heads/a b"},
        {"ref": "refs/heads/\ud800"},
        {"ref": "refs/heads/main\n"},
        {"ref": "refs/heads/" + "a" * 300},
        {"before": "HEAD"},
        {"after": "A" * 40},
        {"after": "a" * 39},
        {"after": f"{'a' * 40}\n"},
        {"after": 5},
        {"repository": None},
        {"repository": {"full_name": None}},
        {"ref": "refs/tags/v1", "head_commit": None},
        {"ref": "refs/tags/v1", "head_commit": {"id": "../../x"}},
        {"ref": "refs/tags/v1", "head_commit": {"id": "a" * 64}},
    ],
)
def test_odd_field_is_refused(changed: dict[str, Any]) -> None:
    found = read(signed(payload() | changed))
    assert isinstance(found, Refused)
    assert found.status is HTTPStatus.BAD_REQUEST
    assert found.reason.isprintable()


@pytest.mark.parametrize("delivery", ["../x", "a" * 65, "a b"])
def test_odd_id_of_delivery_is_refused(delivery: str) -> None:
    assert isinstance(read(signed(payload(), delivery=delivery)), Refused)


@pytest.mark.parametrize("pusher", [None, 7, {}, {"login": None}])
def test_push_without_name_of_pusher_is_read(pusher: object) -> None:
    push = read(signed(payload(pusher=pusher)))
    assert isinstance(push, Push)
    assert push.pusher == ""


def test_name_of_pusher_is_printable_and_short() -> None:
    push = read(signed(payload(pusher={"login": "\x1b[2J" + "a" * 500})))
    assert isinstance(push, Push)
    assert push.pusher.isprintable()
    assert len(push.pusher) <= 80


# --- Patterns ---


@pytest.mark.parametrize(
    ("pattern", "ref", "fits"),
    [
        ("refs/heads/main", "refs/heads/main", True),
        ("refs/heads/main", "refs/heads/mainx", False),
        ("refs/tags/v*", "refs/tags/v1.2.0", True),
        ("refs/tags/v*", "refs/tags/v1/2", False),
        ("refs/tags/v*", "refs/heads/v1", False),
        ("refs/tags/v?.?", "refs/tags/v1.2", True),
        ("refs/tags/v?.?", "refs/tags/v10.2", False),
        ("refs/heads/*", "refs/heads/feature/x", False),
        ("refs/heads/release/*", "refs/heads/release/1", True),
        ("refs/tags/v1.0", "refs/tags/v1x0", False),
    ],
)
def test_star_does_not_cross_slash(pattern: str, ref: str, fits: bool) -> None:
    assert matches(pattern, ref) is fits
