"""Requests as Forgejo sends them: a payload, signed."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from support.forgejo_server import webhook_headers

SECRET = "0123456789abcdef-secret"
ZEROS = "0" * 40


def commit(number: int) -> str:
    """Return a commit id."""
    return hashlib.sha1(str(number).encode(), usedforsecurity=False).hexdigest()


def payload(
    ref: str = "refs/heads/main", after: str = commit(1), before: str = ZEROS, head: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return what Forgejo reports of a push; `head` is the commit of an annotated tag."""
    return {
        "ref": ref,
        "before": before,
        "after": after,
        "compare_url": "https://git.example.com/me/tasks/compare/main",
        "commits": [{"id": head or after, "message": "a change\n", "url": "https://git.example.com/x"}],
        "head_commit": {"id": head or after, "message": "a change\n"},
        "repository": {"id": 7, "full_name": "me/tasks", "clone_url": "https://git.example.com/me/tasks.git"},
        "pusher": {"login": "ana", "full_name": "Ana", "email": "ana@example.com"},
        "sender": {"login": "ana"},
        **more,
    }


def signature(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class SignedRequest:
    """A request to a webhook: its body and its headers."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        return [(name.lower().encode(), value.encode("latin-1")) for name, value in self.headers.items()]


def signed(
    document: object, *, delivery: str | None = None, event: str = "push", secret: str = SECRET
) -> SignedRequest:
    """Return the request that reports `document`, or these bytes, with the headers of Forgejo."""
    body = document if isinstance(document, bytes) else json.dumps(document, indent=2).encode()
    return SignedRequest(body, webhook_headers(body, secret, event=event, delivery=delivery))
